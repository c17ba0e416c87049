"""Properties of the host's network interfaces, set as `ip link` and `ethtool` do."""

from __future__ import annotations

import socket
import struct
from ctypes import addressof, create_string_buffer

from pyvmm.host.libc import ioctl

#: <linux/sockios.h>, <linux/ethtool.h>
_SIOCETHTOOL = 0x8946
_ETHTOOL_SSET = 2


def change(name: str, **keys: object) -> None:
    """``ip link set`` of interface *name*."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname=name)[0], **keys)


def set_speed(name: str, speed: int, duplex: int) -> None:
    """``ethtool -s`` of interface *name*: Mb/s; 0 for half, 1 for full duplex."""
    # struct ethtool_cmd
    command = create_string_buffer(
        struct.pack("=I8xHB13xH14x", _ETHTOOL_SSET, speed & 0xFFFF, duplex, speed >> 16)
    )
    request = create_string_buffer(struct.pack("=16sQ16x", name.encode(), addressof(command)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert ioctl(sock.fileno(), _SIOCETHTOOL, addressof(request)) == 0
