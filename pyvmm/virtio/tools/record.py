"""The queue traffic of a device in a file: ``--record NAME=FILE``, read back by ``pyvmm replay``.

The format is described in docs/guide/device-tools.md. Each entry is written by one call, so a file that was
cut off is valid up to its last complete entry; an incomplete one at its end is not read.
"""

from __future__ import annotations

import os
import struct
import time
from _thread import allocate_lock

from pyvmm.backends.host_objects import HostObject
from pyvmm.errors import ConfigError, StartError
from pyvmm.host.notice import notice
from pyvmm.host.private import open_private
from pyvmm.virtio.observer import Observer, bytes_of
from pyvmm.virtio.transport import mmio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.ring.chain import Chain

MAGIC = b"pyvmmvq\n"
VERSION = 1
#: Magic, version, bytes of the name that follows, device identifier, features offered.
HEADER = struct.Struct("<8sHHIQ")
#: Kind, queue, head (or 0), bytes of the payload, nanoseconds since the beginning.
ENTRY = struct.Struct("<BBHIQ")
#: The most bytes of a recording; it ends there.
LIMIT = 256 << 20

# Kinds of entries, and their payloads
START = 1  # u64 features accepted, then a u16 size for each queue, 0 for one not ready
STOP = 2  # nothing
REQUEST = 3  # u16 number of readable buffers, u16 of writable ones, u32 sizes of all; the readable bytes
RESULT = 4  # u32 length reported, the bytes written
CONFIG_READ = 5  # u32 offset, u32 size, u64 value
CONFIG_WRITE = 6  # the same
FULL = 7  # nothing: the limit was reached, the traffic went on

_START = struct.Struct("<Q")
_REQUEST = struct.Struct("<HH")
_RESULT = struct.Struct("<I")
CONFIG = struct.Struct("<IIQ")


class RecordingError(ConfigError):
    """A file that is not a recording, or not one this version reads."""


class Recorder(Observer, HostObject):
    """Writes what one device and its driver do to *path*, at most *limit* bytes.

    It may be kept for the device of the next machine. Raises StartError when the file cannot be opened.
    """

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = self._left = self.largest_file = limit
        self._lock = allocate_lock()
        try:
            self._fd = open_private(path, os.O_TRUNC)
        except OSError as error:
            raise StartError(f"--record: {path} cannot be written: {error.strerror}") from None
        self._began = time.monotonic_ns()

    def serve(self, device: VirtioDevice) -> Recorder:
        """Observe *device*, of the machine that runs next; returns itself."""
        #: The device of the machine that runs.
        self.device = device
        if self._left == self._limit:
            name = device.name.encode()[:255]
            header = HEADER.pack(MAGIC, VERSION, len(name), device.device_id, device.offered_features)
            self._write(header + name)
        return self

    def give(self, left: bytes, fd: int) -> None:
        """How much of the file the process before has filled."""
        self._left = self._limit - os.fstat(self._fd).st_size

    def started(self) -> None:
        """What was negotiated."""
        runtime = self.device.runtime
        sizes = [queue.size if queue.ready else 0 for queue in runtime.queues]
        payload = _START.pack(runtime.driver_features) + struct.pack(f"<{len(sizes)}H", *sizes)
        self._entry(START, 0, 0, payload)

    def stopped(self) -> None:
        """A reset, or the end."""
        self._entry(STOP, 0, 0, b"")

    def closed(self) -> None:
        """The machine is over."""
        self.close_unless_kept()

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._end()

    def read(self, offset: int, size: int, value: int) -> None:
        """Of the registers only the configuration space."""
        if offset >= mmio.CONFIG:
            self._entry(CONFIG_READ, 0, 0, CONFIG.pack(offset - mmio.CONFIG, size, value))

    def wrote(self, offset: int, size: int, value: int) -> None:
        """Of the registers only the configuration space."""
        if offset >= mmio.CONFIG:
            self._entry(CONFIG_WRITE, 0, 0, CONFIG.pack(offset - mmio.CONFIG, size, value))

    def popped(self, queue: int, chain: Chain) -> None:
        """A request with all its bytes."""
        if self._fd < 0:
            return
        sizes = [view.nbytes for view in (*chain.readable, *chain.writable)]
        head = _REQUEST.pack(len(chain.readable), len(chain.writable)) + struct.pack(
            f"<{len(sizes)}I", *sizes
        )
        self._entry(REQUEST, queue, chain.head, head + bytes_of(chain.readable, self._left + 1))

    def pushed(self, queue: int, chain: Chain, written: int) -> None:
        """A result with all that was written."""
        if self._fd >= 0:
            data = bytes_of(chain.writable, min(written, self._left + 1))
            self._entry(RESULT, queue, chain.head, _RESULT.pack(written) + data)

    def _entry(self, kind: int, queue: int, head: int, payload: bytes) -> None:
        now = time.monotonic_ns() - self._began
        with self._lock:
            if self._fd < 0:
                return
            # The last entry always has room.
            if ENTRY.size + len(payload) > self._left - ENTRY.size:
                self._write(ENTRY.pack(FULL, 0, 0, 0, now))
                self._end()
                notice("record full", f"{self._path} is full; the recording ends here, the guest goes on")
                return
            self._write(ENTRY.pack(kind, queue, head, len(payload), now) + payload)

    def _write(self, data: bytes) -> None:
        self._left -= len(data)
        try:
            os.write(self._fd, data)
        except OSError as error:
            self._end()
            notice("record failed", f"{self._path}: {error.strerror}; the recording ends, the guest goes on")

    def _end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RecordingEntry:
    """One entry of a recording; what it has beyond its kind depends on that.

    :param number: which entry it is, counted from 1
    :param kind: START, STOP, REQUEST, RESULT, CONFIG_READ, CONFIG_WRITE or FULL
    """

    __slots__ = ("head", "kind", "number", "payload", "queue", "seconds")

    def __init__(self, number: int, kind: int, queue: int, head: int, seconds: float, payload: bytes) -> None:
        self.number = number
        self.kind = kind
        self.queue = queue
        self.head = head
        #: Since the beginning of the recording.
        self.seconds = seconds
        self.payload = payload

    def start(self) -> tuple[int, list[int]]:
        """The features accepted and the size of each queue."""
        count = (len(self.payload) - _START.size) // 2
        sizes = struct.unpack_from(f"<{count}H", self.payload, _START.size)
        return _START.unpack_from(self.payload)[0], list(sizes)

    def request(self) -> tuple[list[bytes], list[int]]:
        """The readable buffers, and the sizes of the writable ones."""
        readable, writable = _REQUEST.unpack_from(self.payload)
        sizes = struct.unpack_from(f"<{readable + writable}I", self.payload, _REQUEST.size)
        at = _REQUEST.size + 4 * len(sizes)
        buffers = []
        for size in sizes[:readable]:
            buffers.append(self.payload[at : at + size])
            at += size
        if at != len(self.payload):
            raise struct.error("sizes and bytes differ")
        return buffers, list(sizes[readable:])

    def result(self) -> tuple[int, bytes]:
        """The length reported, and the bytes written."""
        return _RESULT.unpack_from(self.payload)[0], self.payload[_RESULT.size :]

    def config(self) -> tuple[int, int, int]:
        """Offset, size and value of an access to the configuration space."""
        offset, size, value = CONFIG.unpack(self.payload)
        return offset, size, value


class Recording:
    """A recording, read as far as it is whole. Raises RecordingError."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._data = file.read(LIMIT + ENTRY.size)
        except OSError as error:
            raise RecordingError(f"{path} cannot be read: {error.strerror}; give a recording") from None
        if len(self._data) < HEADER.size or not self._data.startswith(MAGIC):
            raise RecordingError(f"{path} is no recording of a device; --record makes one")
        _, version, length, self.device_id, self.features = HEADER.unpack_from(self._data)
        if version != VERSION:
            raise RecordingError(
                f"{path} has format version {version}, and this pyvmm reads {VERSION}; record it anew"
            )
        self.name = self._data[HEADER.size : HEADER.size + length].decode(errors="replace")
        self._begin = HEADER.size + length
        #: Bytes at the end that make no whole entry, once all were read.
        self.cut = 0

    def __iter__(self) -> Iterator[RecordingEntry]:
        data, at, number = self._data, self._begin, 0
        while at + ENTRY.size <= len(data):
            kind, queue, head, length, nanoseconds = ENTRY.unpack_from(data, at)
            end = at + ENTRY.size + length
            if end > len(data):
                break
            number += 1
            yield RecordingEntry(number, kind, queue, head, nanoseconds / 1e9, data[at + ENTRY.size : end])
            at = end
        self.cut = max(0, len(data) - at)
