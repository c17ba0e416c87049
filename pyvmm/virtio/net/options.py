"""The options of ``--net``: the network device and its backend."""

from __future__ import annotations

from functools import partial

from pyvmm.backends.net.pcap import LIMIT, Capture
from pyvmm.virtio.net.device import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.net.base import NetBackend
    from pyvmm.virtio.options import OptionReader

TYPES = ("tap", "user", "switch:NAME", "link:PATH", "none")
#: An Ethernet's least for IPv4, and the largest IP packet.
MIN_MTU, MAX_MTU = 68, 65535


def from_options(reader: OptionReader) -> Net:
    """``TYPE[,mac=..][,mtu=..][,pcap=FILE[,pcap-limit=SIZE]]`` and the type's own options.

    Raises ConfigError or NetBackendError.
    """
    kind, _, rest = reader.need("type").partition(":")
    mac = reader.text("mac")
    address = None if mac is None else _mac(reader, mac)
    mtu = reader.number("mtu", None, MIN_MTU, MAX_MTU)
    path = reader.text("pcap")
    limit = reader.size("pcap-limit", LIMIT) or LIMIT
    pairs = reader.number("queues", 1, 1, 128) if kind in ("tap", "switch") else 1
    assert pairs is not None
    vhost = kind == "tap" and reader.flag("vhost")
    if vhost and path is not None:
        raise reader.error("pcap sees no frames with vhost: leave one of them out")
    backend = reader.open("backend", _backend(reader, kind, rest, pairs, mtu))
    try:
        if vhost:
            from pyvmm.backends.net.tap import NetTap
            from pyvmm.virtio.net.vhost import VhostNet

            assert isinstance(backend, NetTap)
            return VhostNet(backend, mac=address, mtu=mtu, pairs=pairs, seed=reader.machine)
        capture = None if path is None else reader.open("capture", lambda: Capture(path, limit))
        make: Callable[..., Net] = Net
        if kind == "switch":
            from pyvmm.virtio.net.named_switch import NamedSwitchCard

            make = partial(NamedSwitchCard, switch=rest)
        return make(backend, mac=address, mtu=mtu, pairs=pairs, capture=capture, seed=reader.machine)
    except BaseException:
        backend.close_unless_kept()
        raise


def _backend(
    reader: OptionReader, kind: str, rest: str, pairs: int, mtu: int | None
) -> Callable[[], NetBackend]:
    """What makes the backend that *reader* asks for."""
    if kind == "tap" and not rest:
        return _tap(reader, pairs, mtu)
    if kind == "user" and not rest:
        from pyvmm.backends.net.passt import Passt, parse_forwards

        text = reader.text("hostfwd")
        forwards = parse_forwards(text) if text else ()
        return partial(Passt, forwards, host_loopback=reader.flag("host-loopback"), mtu=mtu)
    if kind == "switch" and rest:
        from pyvmm.backends.net.switch import named_switch

        return partial(named_switch(rest).port, pairs)
    if kind == "link" and rest:
        from pyvmm.backends.net.link import Link

        return partial(Link, rest)
    if kind == "none" and not rest:
        from pyvmm.backends.net.base import NetBackend

        return NetBackend
    raise reader.error(f"{kind}{':' if rest else ''}{rest} is not offered; choose {', '.join(TYPES)}")


def _tap(reader: OptionReader, pairs: int, mtu: int | None) -> Callable[[], NetBackend]:
    from pyvmm.backends.net.tap import adopt, open_tap

    fds, name = reader.text("fd"), reader.text("ifname")
    bridge, address = reader.text("bridge"), reader.text("address")
    if fds is None:
        return partial(open_tap, name or "tap%d", pairs, mtu=mtu, bridge=bridge, address=address)
    if name or bridge or address:
        raise reader.error("fd is a tap that is open already: leave ifname, bridge and address out")
    try:
        numbers = [int(fd) for fd in fds.split(":")]
    except ValueError:
        raise reader.error(f"fd={fds} is not a descriptor; write fd=3, or fd=3:4 for two queues") from None
    if len(numbers) != pairs:
        raise reader.error(f"fd={fds} are {len(numbers)} queues; write queues={len(numbers)}")
    return partial(adopt, numbers)


def _mac(reader: OptionReader, text: str) -> bytes:
    parts = text.split(":")
    try:
        address = bytes(int(part, 16) for part in parts)
    except ValueError:
        address = b""
    if len(address) != 6 or any(len(part) != 2 for part in parts) or address[0] & 1 or not any(address):
        raise reader.error(f"mac={text} is no address of one station; write it like 52:54:00:12:34:56")
    return address
