"""The control queue: RX mode, MAC filter table, queue pairs, offloads. Section 5.1.6.5."""

from __future__ import annotations

from pyvmm.virtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.virtio.net.filter import Filter

OK, ERR = b"\0", b"\1"

# (class, command)
RX_PROMISC = (0, 0)
RX_ALLMULTI = (0, 1)
MAC_TABLE_SET = (1, 0)
MAC_ADDR_SET = (1, 1)
MQ_VQ_PAIRS_SET = (4, 0)
GUEST_OFFLOADS_SET = (5, 0)

#: Bytes of the longest command: two tables of more addresses than any driver sets.
LIMIT = 64 << 10
_MAC = 6


class Control:
    """What the driver's commands change.

    :param wanted: the filter of received frames
    :param set_mac: called with the driver's new address
    :param set_pairs: called with the number of queue pairs to use; False refuses it
    :param set_offloads: called with the GUEST_* feature bits to keep on; False refuses them
    """

    def __init__(
        self,
        wanted: Filter,
        set_mac: Callable[[bytes], object],
        set_pairs: Callable[[int], bool],
        set_offloads: Callable[[int], bool],
    ) -> None:
        self._filter = wanted
        self._set_mac = set_mac
        self._set_pairs = set_pairs
        self._set_offloads = set_offloads

    def carry_out(self, command: bytes) -> bytes:
        """Do what *command* says: class, command, data; returns the status byte (5.1.6.5)."""
        kind, data = tuple(command[:2]), command[2:]
        try:
            done = self._carry_out(kind, data)
        except ChainError:
            done = False
        return OK if done else ERR

    def _carry_out(self, kind: tuple[int, ...], data: bytes) -> bool:
        wanted = self._filter
        if kind == RX_PROMISC:
            wanted.promiscuous = bool(_exactly(data, 1)[0])
        elif kind == RX_ALLMULTI:
            wanted.all_multicast = bool(_exactly(data, 1)[0])
        elif kind == MAC_TABLE_SET:
            unicast, rest = _table(data)
            multicast, rest = _table(rest)
            _exactly(rest, 0)
            wanted.set_table(unicast, multicast)
        elif kind == MAC_ADDR_SET:
            self._set_mac(_exactly(data, _MAC))
        elif kind == MQ_VQ_PAIRS_SET:
            return self._set_pairs(int.from_bytes(_exactly(data, 2), "little"))
        elif kind == GUEST_OFFLOADS_SET:
            return self._set_offloads(int.from_bytes(_exactly(data, 8), "little"))
        else:
            return False
        return True


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ChainError(f"a command has {len(data)} bytes of data and not {size}")
    return data


def _table(data: bytes) -> tuple[list[bytes], bytes]:
    """The addresses of one struct virtio_net_ctrl_mac, and what follows it."""
    end = 4 + _MAC * int.from_bytes(data[:4], "little")
    if len(data) < 4 or end > len(data):
        raise ChainError("a table of addresses ends before its last one")
    return [data[at : at + _MAC] for at in range(4, end, _MAC)], data[end:]
