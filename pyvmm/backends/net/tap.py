"""Tap interfaces: a network interface of the host's whose other end is the guest.

Source: Linux, Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import os
import struct
from ctypes import addressof, c_int, create_string_buffer, get_errno
from functools import partial

from pyvmm.backends.net.base import ALL_OFFLOADS, CSUM, ECN, HEADER, NetBackend, NetBackendError
from pyvmm.backends.net.interface import Interface
from pyvmm.host.libc import ioctl
from pyvmm.host.notice import notice
from pyvmm.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop

# <linux/sockios.h>
_SIOCGIFHWADDR = 0x8927
# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETVNETLE = 0x400454DC
TUNSETCARRIER = 0x400454E2
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400

_IFNAMSIZ = 16
_IFREQ = struct.Struct(f"<{_IFNAMSIZ}sH22x")
_EPERM, _EBUSY, _EINVAL = 1, 16, 22
DEVICE = "/dev/net/tun"
#: What kernels may accept of TUNSETOFFLOAD, the most first.
_OFFLOADS = (ALL_OFFLOADS, ALL_OFFLOADS & ~ECN, CSUM, 0)
#: Bytes of a packet without ``mtu``. A guest that is told no MTU has this one, and may raise it.
_ETHERNET_MTU = 1500


class TapError(NetBackendError):
    """A tap that cannot be opened, and *number*, the errno of the attempt."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number = number


def open_queue(ifname: str, multi_queue: bool) -> tuple[int, str]:
    """Open one queue of tap *ifname*, made when it is not there; ``%d`` in it gets a free number.

    Returns a non-blocking descriptor and the interface's name. Frames have a vnet header. Raises TapError
    when the kernel refuses the interface, NetBackendError when there is no tun device.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NetBackendError(
            f"cannot open {DEVICE}: {error.strerror}; load the module tun and give this user access to it"
        ) from None
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if multi_queue else 0)
    request = create_string_buffer(_IFREQ.pack(ifname.encode(), flags), _IFREQ.size)
    if ioctl(fd, TUNSETIFF, addressof(request)) < 0:
        number = get_errno()
        os.close(fd)
        raise TapError(_why(ifname, number), number)
    return fd, _IFREQ.unpack(request.raw)[0].rstrip(b"\0").decode(errors="replace")


def configure(fd: int, offloads: int, header: int = HEADER) -> None:
    """Set the offloads that the reader of tap *fd* accepts, and the vnet header's size, *header* bytes.

    Raises OSError.
    """
    _set(fd, TUNSETVNETHDRSZ, header)
    _set(fd, TUNSETVNETLE, 1)
    _call(fd, TUNSETOFFLOAD, offloads)


def interface_of(fd: int) -> tuple[str, int]:
    """(name, IFF_ flags) of the tap behind *fd*. Raises NetBackendError when it is none."""
    request = create_string_buffer(_IFREQ.size)
    try:
        _call(fd, TUNGETIFF, addressof(request))
    except OSError as error:
        raise NetBackendError(
            f"descriptor {fd} is no tap interface ({error.strerror}); open /dev/net/tun and TUNSETIFF it"
        ) from None
    name, flags = _IFREQ.unpack(request.raw)
    return name.rstrip(b"\0").decode(errors="replace"), flags


class NetTap(NetBackend):
    """A tap interface with a queue for each of *fds*, which it owns from now on.

    MTU, speed and carrier are the interface's, unless it is in another network namespace, where this process
    cannot see them. Raises OSError when the kernel refuses TUNSETOFFLOAD altogether.
    """

    sends_in_any_thread = True

    def __init__(self, fds: Sequence[int], name: str) -> None:
        super().__init__()
        self.name = name
        self.pairs = len(fds)
        self._fds = list(fds)
        self._enabled = len(fds)
        self._loop: Loop | None = None
        self._interface: Interface | None = None
        for fd in fds:
            os.set_blocking(fd, False)
        self.offloads = _accepted_offloads(fds[0])
        interface = self._interface = _interface(fds[0], name)
        if interface is not None:
            self.carrier = interface.state.carrier
            self.has_speed = True
            if interface.state.mtu != _ETHERNET_MTU:
                self.mtu = interface.state.mtu

    def attach(self, loop: Loop) -> None:
        """Watch the interface: its carrier is the guest's."""
        self._loop = loop
        if self._interface is not None:
            loop.add(self._interface.fd, READ, self._refresh)

    def detach(self) -> None:
        """Leave the loop; what becomes of the interface meanwhile is read in the next machine's."""
        loop, self._loop = self._loop, None
        if loop is not None and self._interface is not None:
            loop.remove(self._interface.fd)

    def left(self) -> tuple[bytes, int]:
        """How many queues are attached."""
        return bytes((self._enabled,)), -1

    def give(self, left: bytes, fd: int) -> None:
        """How many queues the process before left attached."""
        if left:
            self._enabled = min(left[0], self.pairs)

    def speed(self) -> tuple[int, int] | None:
        """What the interface's driver says, or what was set there (``ethtool -s``)."""
        return None if self._interface is None else self._interface.speed()

    @property
    def identity(self) -> str:
        """The interface's name."""
        return self.name

    def started(self, offloads: int) -> None:
        """Tell the kernel which offloads the guest accepts. Raises OSError."""
        for fd in self._fds:
            configure(fd, offloads)

    def enable(self, pairs: int) -> None:
        """Attach the first *pairs* queues: the kernel spreads flows over these. Raises OSError."""
        while self._enabled < pairs:
            self._attach_queue(self._enabled, IFF_ATTACH_QUEUE)
            self._enabled += 1
        while self._enabled > pairs:
            self._attach_queue(self._enabled - 1, IFF_DETACH_QUEUE)
            self._enabled -= 1

    def set_carrier(self, up: bool) -> None:
        """The host's interface shows NO-CARRIER while the guest's link is down."""
        try:
            _set(self._fds[0], TUNSETCARRIER, int(up))
        except OSError:
            pass  # a kernel before 5.0: only the guest sees it
        # Else ``_refresh`` brings it, a moment later.

    def fd(self, pair: int) -> int:
        """The queue's descriptor."""
        return self._fds[pair]

    def reader(self, pair: int) -> Callable[[list[memoryview]], int]:
        """One frame a call."""
        return partial(os.readv, self._fds[pair])

    def writer(self, pair: int) -> Callable[[list[memoryview]], object]:
        """One frame a call; the kernel checks its header."""
        return partial(os.writev, self._fds[pair])

    def describe(self) -> str:
        """The interface's name."""
        return f"tap {self.name}"

    def close(self) -> None:
        """Close the queues; an interface that was made for this run ends with them. Idempotent."""
        self.detach()
        self._forget_interface()
        while self._fds:
            os.close(self._fds.pop())

    def _refresh(self, events: int) -> None:
        """The kernel has told something of an interface."""
        assert self._interface is not None
        try:
            there = self._interface.refresh()
            carrier = there and self._interface.state.carrier
        except OSError:
            there = carrier = False
        if not there:
            notice("tap gone", f"tap {self.name} was removed from this host; the guest's link is down")
            self._forget_interface()
        with self.lock:
            if carrier != self.carrier:
                self.carrier = carrier
                if self.on_change is not None:
                    self.on_change()

    def _forget_interface(self) -> None:
        interface, self._interface = self._interface, None
        if interface is not None:
            if self._loop is not None:
                self._loop.remove(interface.fd)
            interface.close()

    def _attach_queue(self, pair: int, flag: int) -> None:
        request = create_string_buffer(_IFREQ.pack(b"", flag), _IFREQ.size)
        _call(self._fds[pair], TUNSETQUEUE, addressof(request))


def open_tap(
    ifname: str = "tap%d",
    pairs: int = 1,
    *,
    mtu: int | None = None,
    bridge: str | None = None,
    address: str | None = None,
) -> NetTap:
    """The tap interface *ifname* with *pairs* queues; made, set up and up when it is not there.

    :param mtu: bytes of the largest IP packet through a made one; by default the bridge's, else 1500
    :param bridge: the bridge that a made one is put into
    :param address: the host's own address on a made one, such as ``192.0.2.1/24``

    One that is there is used as it is. Raises NetBackendError.
    """
    if not 0 < len(ifname.encode()) < _IFNAMSIZ or "/" in ifname or ifname.split() != [ifname]:
        raise NetBackendError(
            f"{ifname!r} is no name of an interface; it has 1 to 15 characters and no space or /"
        )
    made = not _exists(ifname)
    fds: list[int] = []
    try:
        fd, name, multi = _first_queue(ifname, pairs, made)
        fds.append(fd)
        while len(fds) < pairs:
            fds.append(open_queue(name, multi)[0])
        if made:
            set_up(name, mtu=mtu, bridge=bridge, address=address)
        return NetTap(fds, name)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _first_queue(ifname: str, pairs: int, made: bool) -> tuple[int, str, bool]:
    """(descriptor, name, whether it is an interface of several queues): each of the two ways is tried."""
    ways = (pairs > 1,) if made else (pairs > 1, pairs == 1)
    for multi in ways:
        try:
            fd, name = open_queue(ifname, multi)
        except TapError as error:
            if error.number != _EINVAL or multi is ways[-1]:
                if error.number == _EINVAL and not made:
                    raise TapError(
                        f"{ifname} is an interface but no tap; name another one", _EINVAL
                    ) from None
                raise
        else:
            if pairs == 1 or multi:
                return fd, name, multi
            os.close(fd)
            break
    raise NetBackendError(
        f"tap {ifname} has one queue; make it with `ip tuntap add {ifname} mode tap multi_queue`, or leave "
        "queues out"
    )


def adopt(fds: Sequence[int]) -> NetTap:
    """The tap whose queues are open as *fds*, from now on its own.

    Raises NetBackendError for what is none, or has no vnet header; they are then still the caller's.
    """
    name = ""
    for fd in fds:
        name, flags = interface_of(fd)
        if not flags & IFF_TAP or not flags & IFF_VNET_HDR:
            raise NetBackendError(
                f"descriptor {fd} ({name}) must be a tap with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR"
            )
    for fd in fds:
        os.set_inheritable(fd, False)
    return NetTap(fds, name)


def set_up(
    name: str, *, mtu: int | None = None, bridge: str | None = None, address: str | None = None
) -> None:
    """Set interface *name* up, with *mtu* (bytes of the largest IP packet), *bridge*, *address* where given.

    Raises NetBackendError.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip:
        try:
            (index,) = ip.link_lookup(ifname=name)
            keys: dict[str, object] = {}
            if bridge is not None:
                found = ip.link_lookup(ifname=bridge)
                if not found:
                    raise NetBackendError(
                        f"there is no bridge {bridge}; make it with `ip link add {bridge} type bridge`"
                    )
                keys["master"] = found[0]
                # Else the bridge would take the MTU of the one with the least: this one's.
                mtu = mtu or ip.link("get", index=found[0])[0].get_attr("IFLA_MTU")
            if mtu is not None:
                keys["mtu"] = mtu
            if address is not None:
                host, _, prefix = address.partition("/")
                ip.addr("add", index=index, address=host, prefixlen=int(prefix))
            ip.link("set", index=index, state="up", **keys)
        except NetlinkError as error:
            raise NetBackendError(f"cannot set up interface {name}: {os.strerror(error.code)}") from None


def _accepted_offloads(fd: int) -> int:
    """The offloads that the kernel accepts for tap *fd*; none are set when this returns."""
    for offloads in _OFFLOADS:
        try:
            _call(fd, TUNSETOFFLOAD, offloads)
            break
        except OSError:
            continue
    if offloads:
        _call(fd, TUNSETOFFLOAD, 0)
    return offloads


def _interface(fd: int, name: str) -> Interface | None:
    """The interface of tap *fd*; None when the one of that name here is another one."""
    request = create_string_buffer(_IFREQ.size)
    try:
        _call(fd, _SIOCGIFHWADDR, addressof(request))
        interface = Interface(name)
    except OSError:
        return None
    if interface.state.address != request.raw[_IFNAMSIZ + 2 : _IFNAMSIZ + 8]:
        interface.close()
        return None
    return interface


def _exists(ifname: str) -> bool:
    """Whether there is an interface of this name. (/sys may show another network namespace's.)"""
    import socket

    try:
        socket.if_nametoindex(ifname)
    except OSError:
        return False
    return True


def _why(ifname: str, number: int) -> str:
    reason = os.strerror(number)
    if number == _EPERM:
        return (
            f"this user may not open tap {ifname} ({reason}); make one as root: "
            f"ip tuntap add {ifname} mode tap user $USER vnet_hdr"
        )
    if number == _EBUSY:
        return f"tap {ifname} is in use by another program ({reason}); name another one"
    return f"cannot open tap {ifname}: {reason}; see `ip -d link show {ifname}`"


def _set(fd: int, request: int, value: int) -> None:
    number = c_int(value)
    _call(fd, request, addressof(number))


def _call(fd: int, request: int, argument: int) -> None:
    if ioctl(fd, request, argument) < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number))
