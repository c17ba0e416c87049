"""What the host's kernel says of a network interface: MTU, carrier, speed; and being told of changes.

Source: rtnetlink(7), Linux include/uapi/linux/if_link.h, include/uapi/linux/ethtool.h.
"""

from __future__ import annotations

import os
import socket
import struct
from ctypes import addressof, create_string_buffer

from pyvmm.host.libc import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of <linux/rtnetlink.h> and <linux/netlink.h>.
_NETLINK_ROUTE = 0
_RTMGRP_LINK = 1
_NLM_F_REQUEST = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
#: nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid.
_NLMSG = struct.Struct("=IHHII")
#: ifi_family, ifi_type, ifi_index, ifi_flags, ifi_change.
_IFINFO = struct.Struct("=BxHiII")
#: rta_len, rta_type.
_ATTRIBUTE = struct.Struct("=HH")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFF_UP, _IFF_LOWER_UP = 1, 1 << 16
_MESSAGE_MAX = 64 << 10

SIOCETHTOOL = 0x8946
_ETHTOOL_GSET = 1
#: Of struct ethtool_cmd: cmd, speed, duplex, speed_hi.
_ETHTOOL_CMD = struct.Struct("=I8xHB13xH14x")
_IFREQ_POINTER = struct.Struct("=16sQ16x")
_DUPLEX = (0, 1)
#: Mb/s: what the tun driver said of every interface before Linux 6.3. It means nothing.
_TUN_SPEED = 10
#: Mb/s beyond which a number stands for "unknown" (virtio 1.2, 5.1.4).
_SPEED_MAX = 0x7FFF_FFFF


class LinkState:
    """What an interface was at one moment.

    :param address: its hardware address
    :param mtu: bytes of the largest IP packet
    :param carrier: whether it is set up and has a carrier
    """

    __slots__ = ("address", "carrier", "mtu")

    def __init__(self, address: bytes, mtu: int, carrier: bool) -> None:
        self.address = address
        self.mtu = mtu
        self.carrier = carrier


class Interface:
    """Interface *name* of this process's network namespace. Raises OSError when there is none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._index = socket.if_nametoindex(name)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_ROUTE
        )
        # Made now: a process in a sandbox makes no socket.
        self._asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        try:
            self._socket.bind((0, _RTMGRP_LINK))
            state = self._ask()
        except BaseException:
            self.close()
            raise
        self.state: LinkState = state

    @property
    def fd(self) -> int:
        """A descriptor that is readable when ``refresh`` may have news."""
        return self._socket.fileno()

    def refresh(self) -> bool:
        """Bring ``state`` up to date with what the kernel has told; False when the interface is gone.

        Raises OSError where the kernel must be asked again and does not answer.
        """
        there = True
        while True:
            try:
                data = self._socket.recv(_MESSAGE_MAX)
            except BlockingIOError:
                return there
            except OSError:  # more than fits was told
                self.state = self._ask()
                return True
            for kind, state in self._states(data):
                there = kind == _RTM_NEWLINK
                self.state = state

    def speed(self) -> tuple[int, int] | None:
        """(Mb/s, duplex: 0 half, 1 full), where the driver knows them."""
        command = create_string_buffer(_ETHTOOL_CMD.pack(_ETHTOOL_GSET, 0, 0, 0), _ETHTOOL_CMD.size)
        request = create_string_buffer(_IFREQ_POINTER.pack(self.name.encode(), addressof(command)))
        # Any socket of the interface's namespace does.
        if ioctl(self._socket.fileno(), SIOCETHTOOL, addressof(request)) < 0:
            return None
        _, low, duplex, high = _ETHTOOL_CMD.unpack(command.raw)
        speed = high << 16 | low
        if not 0 < speed <= _SPEED_MAX or speed in (_TUN_SPEED, 0xFFFF) or duplex not in _DUPLEX:
            return None
        return speed, duplex

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self._socket.close()
        self._asking.close()

    def _ask(self) -> LinkState:
        """Ask for the state; what was told before the answer is older. Raises OSError."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, self._index, 0, 0)
        head = _NLMSG.pack(_NLMSG.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST, 1, 0)
        self._asking.send(head + body)
        for _, state in self._states(self._asking.recv(_MESSAGE_MAX)):
            return state
        raise OSError(19, os.strerror(19))  # ENODEV

    def _states(self, data: bytes) -> Iterator[tuple[int, LinkState]]:
        """(RTM_NEWLINK or RTM_DELLINK, state) of each message about this interface."""
        at = 0
        while at + _NLMSG.size <= len(data):
            size, kind, *_ = _NLMSG.unpack_from(data, at)
            if size < _NLMSG.size:
                return
            if kind in (_RTM_NEWLINK, _RTM_DELLINK):
                _, _, index, flags, _ = _IFINFO.unpack_from(data, at + _NLMSG.size)
                if index == self._index:
                    found = dict(_attributes(data[at + _NLMSG.size + _IFINFO.size : at + size]))
                    yield (
                        kind,
                        LinkState(
                            found.get(_IFLA_ADDRESS, b""),
                            int.from_bytes(found.get(_IFLA_MTU, b""), "little"),
                            flags & (_IFF_UP | _IFF_LOWER_UP) == _IFF_UP | _IFF_LOWER_UP,
                        ),
                    )
            at += size + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3
