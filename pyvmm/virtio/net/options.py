"""From the words of ``--net`` to a network device and its backend."""

from __future__ import annotations

from pyvmm.backends.net.pcap import LIMIT, Capture
from pyvmm.virtio.net.device import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.net.base import NetBackend
    from pyvmm.virtio.options import Words

TYPES = ("tap", "user", "switch:NAME", "link:PATH", "none")
#: An Ethernet's least for IPv4, and the largest IP packet.
MIN_MTU, MAX_MTU = 68, 65535


def from_words(words: Words) -> Net:
    """``TYPE[,mac=..][,mtu=..][,pcap=FILE[,pcap-limit=SIZE]]`` and the type's own words.

    Raises ConfigError or NetBackendError.
    """
    kind, _, rest = words.need("type").partition(":")
    mac = words.text("mac")
    address = None if mac is None else _mac(words, mac)
    mtu = words.number("mtu", None, MIN_MTU, MAX_MTU)
    path = words.text("pcap")
    limit = words.size("pcap-limit", LIMIT) or LIMIT
    pairs = words.number("queues", 1, 1, 128) if kind in ("tap", "switch") else 1
    assert pairs is not None
    vhost = kind == "tap" and words.flag("vhost")
    if vhost and path is not None:
        raise words.error("pcap sees no frames with vhost: leave one of them out")
    backend = _backend(words, kind, rest, pairs, mtu)
    try:
        if vhost:
            from pyvmm.backends.net.tap import Tap
            from pyvmm.virtio.vhost.net import VhostNet

            assert isinstance(backend, Tap)
            return VhostNet(backend, mac=address, mtu=mtu, pairs=pairs, seed=words.machine)
        capture = None if path is None else Capture(path, limit)
        return Net(backend, mac=address, mtu=mtu, pairs=pairs, capture=capture, seed=words.machine)
    except BaseException:
        backend.close()
        raise


def _backend(words: Words, kind: str, rest: str, pairs: int, mtu: int | None) -> NetBackend:
    if kind == "tap" and not rest:
        return _tap(words, pairs, mtu)
    if kind == "user" and not rest:
        from pyvmm.backends.net.passt import Passt, parse_forwards

        forwards = words.text("hostfwd")
        return Passt(parse_forwards(forwards) if forwards else (), mtu=mtu)
    if kind == "switch" and rest:
        from pyvmm.backends.net.switch import named_switch

        return named_switch(rest).port(pairs)
    if kind == "link" and rest:
        from pyvmm.backends.net.link import Link

        return Link(rest)
    if kind == "none" and not rest:
        from pyvmm.backends.net.base import NetBackend

        return NetBackend()
    raise words.error(f"{kind}{':' if rest else ''}{rest} is not offered; choose {', '.join(TYPES)}")


def _tap(words: Words, pairs: int, mtu: int | None) -> NetBackend:
    from pyvmm.backends.net.tap import adopt, open_tap

    fds, name = words.text("fd"), words.text("ifname")
    bridge, address = words.text("bridge"), words.text("address")
    if fds is None:
        return open_tap(name or "tap%d", pairs, mtu=mtu, bridge=bridge, address=address)
    if name or bridge or address:
        raise words.error("fd is a tap that is open already: leave ifname, bridge and address out")
    try:
        numbers = [int(fd) for fd in fds.split(":")]
    except ValueError:
        raise words.error(f"fd={fds} is not a descriptor; write fd=3, or fd=3:4 for two queues") from None
    if len(numbers) != pairs:
        raise words.error(f"fd={fds} are {len(numbers)} queues; write queues={len(numbers)}")
    return adopt(numbers)


def _mac(words: Words, text: str) -> bytes:
    parts = text.split(":")
    try:
        address = bytes(int(part, 16) for part in parts)
    except ValueError:
        address = b""
    if len(address) != 6 or any(len(part) != 2 for part in parts) or address[0] & 1 or not any(address):
        raise words.error(f"mac={text} is no address of one station; write it like 52:54:00:12:34:56")
    return address
