"""The host kernel's vhost: queues served by /dev/vhost-net and /dev/vhost-vsock.

Source: Linux include/uapi/linux/vhost.h and vhost_types.h; the C text stands beside each layout.
"""

from __future__ import annotations

import os
from ctypes import addressof, create_string_buffer, get_errno
from struct import Struct

from pyvmm.host.libc import ioctl
from pyvmm.host.opened import open_file
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.device import Ring, VhostControl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory

_U64 = Struct("=Q")
_INT = Struct("=i")
#: ``struct vhost_vring_state { unsigned int index; unsigned int num; }``
_VRING_STATE = Struct("=II")
#: ``struct vhost_vring_file { unsigned int index; int fd; }``
_VRING_FILE = Struct("=Ii")
#: ``struct vhost_vring_addr { unsigned int index; unsigned int flags; __u64 desc_user_addr;``
#: ``__u64 used_user_addr; __u64 avail_user_addr; __u64 log_guest_addr; }``
_VRING_ADDR = Struct("=IIQQQQ")
#: ``struct vhost_memory { __u32 nregions; __u32 padding; struct vhost_memory_region regions[]; }``
_MEMORY = Struct("=II")
#: ``struct vhost_memory_region { __u64 guest_phys_addr; __u64 memory_size; __u64 userspace_addr;``
#: ``__u64 flags_padding; }``
_MEMORY_REGION = Struct("=QQQQ")


def _request(direction: int, number: int, size: int) -> int:
    """_IO, _IOW (1), _IOR (2), _IOWR (3) of <asm-generic/ioctl.h> for VHOST_VIRTIO."""
    return direction << 30 | size << 16 | 0xAF << 8 | number


VHOST_GET_FEATURES = _request(2, 0x00, _U64.size)
VHOST_SET_FEATURES = _request(1, 0x00, _U64.size)
VHOST_SET_OWNER = _request(0, 0x01, 0)
VHOST_SET_MEM_TABLE = _request(1, 0x03, _MEMORY.size)
VHOST_SET_VRING_NUM = _request(1, 0x10, _VRING_STATE.size)
VHOST_SET_VRING_ADDR = _request(1, 0x11, _VRING_ADDR.size)
VHOST_SET_VRING_BASE = _request(1, 0x12, _VRING_STATE.size)
VHOST_GET_VRING_BASE = _request(3, 0x12, _VRING_STATE.size)
VHOST_SET_VRING_KICK = _request(1, 0x20, _VRING_FILE.size)
VHOST_SET_VRING_CALL = _request(1, 0x21, _VRING_FILE.size)
VHOST_NET_SET_BACKEND = _request(1, 0x30, _VRING_FILE.size)
VHOST_VSOCK_SET_GUEST_CID = _request(1, 0x60, _U64.size)
VHOST_VSOCK_SET_RUNNING = _request(1, 0x61, _INT.size)

_NAMES = {value: name for name, value in vars().copy().items() if name.startswith("VHOST_")}


class KernelVhost(VhostControl):
    """One opened vhost device at *path*; a subclass says how its rings are set running.

    Requests: <linux/vhost.h>. Raises DeviceError when it cannot be opened; kernel module *module* has it. All
    methods that make a request raise DeviceError when the kernel refuses it.
    """

    def __init__(self, path: str, module: str) -> None:
        try:
            self.fd = open_file(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(
                f"cannot open {path}: {error.strerror}; load it with `modprobe {module}` and give this "
                "user access to it, or leave vhost out"
            ) from None
        self.path = path
        self._memory: GuestMemory | None = None  # the kernel's memory map is of this
        try:
            self.call(VHOST_SET_OWNER)
            (self.features,) = _U64.unpack(self.call(VHOST_GET_FEATURES, bytes(_U64.size)))
        except BaseException:
            self.close()
            raise

    def call(self, request: int, argument: bytes = b"") -> bytes:
        """Make *request*; its argument as the kernel left it. Raises DeviceError."""
        buffer = create_string_buffer(argument, len(argument) or 1)
        if ioctl(self.fd, request, addressof(buffer)) < 0:
            number = get_errno()
            raise DeviceError(
                f"{self.path}: {_NAMES[request]} failed: {os.strerror(number)}; leave vhost out to go without"
            )
        return buffer.raw

    def begin(self, memory: GuestMemory, features: int) -> None:
        """Features it knows, and the memory map the first time: a machine's does not change."""
        self.call(VHOST_SET_FEATURES, _U64.pack(features & self.features))
        if self._memory is not memory:
            rows = [(r.gpa, r.size, r.address, 0) for r in memory.regions if not r.readonly]
            table = b"".join(_MEMORY_REGION.pack(*row) for row in rows)
            self.call(VHOST_SET_MEM_TABLE, _MEMORY.pack(len(rows), 0) + table)
            self._memory = memory

    def start_ring(self, ring: Ring) -> None:
        """Size, place, position and eventfds of a ring."""
        index = self.ring_index(ring.index)
        self.call(VHOST_SET_VRING_NUM, _VRING_STATE.pack(index, ring.size))
        self.call(VHOST_SET_VRING_BASE, _VRING_STATE.pack(index, ring.base))
        self.call(VHOST_SET_VRING_ADDR, _VRING_ADDR.pack(index, 0, ring.desc, ring.used, ring.avail, 0))
        self.call(VHOST_SET_VRING_CALL, _VRING_FILE.pack(index, ring.call))
        self.call(VHOST_SET_VRING_KICK, _VRING_FILE.pack(index, ring.kick))

    def stop_ring(self, index: int) -> int:
        """Disconnect a ring from its kicks, after ``halt`` stopped it; its position."""
        index = self.ring_index(index)
        self.halt(index)
        self.call(VHOST_SET_VRING_KICK, _VRING_FILE.pack(index, -1))
        _, base = _VRING_STATE.unpack(self.call(VHOST_GET_VRING_BASE, _VRING_STATE.pack(index, 0)))
        return int(base)

    def ring_index(self, index: int) -> int:
        """The kernel's number for the device's queue *index*."""
        return index

    def halt(self, index: int) -> None:
        """Have the kernel let ring *index*, by its own number, alone."""
        raise NotImplementedError

    def set_backend(self, index: int, fd: int) -> None:
        """Join ring *index* of a network device to socket or tap *fd*; -1 disconnects it."""
        self.call(VHOST_NET_SET_BACKEND, _VRING_FILE.pack(index, fd))

    def set_number(self, request: int, value: int) -> None:
        """Make *request*, one of the VHOST_ numbers, whose argument is an ``int``."""
        self.call(request, _INT.pack(value))

    def set_wide_number(self, request: int, value: int) -> None:
        """Make *request*, one of the VHOST_ numbers, whose argument is a ``__u64``."""
        self.call(request, _U64.pack(value))

    def close(self) -> None:
        """Close it: the kernel stops whatever runs."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
