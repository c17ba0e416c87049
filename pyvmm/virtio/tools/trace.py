"""A live, decoded trace of a device: ``--trace-device NAME`` or ``NAME=FILE``.

A line an event: seconds since the start of the trace, the device, what happened. Register values are
decoded; a chain has its readable bytes and, when it is completed, what was written and after how long.
"""

from __future__ import annotations

import contextlib
import logging
import time
from _thread import allocate_lock

from pyvmm.backends.host_objects import HostObject
from pyvmm.errors import StartError
from pyvmm.host import exceptions
from pyvmm.host.printable import printable
from pyvmm.host.rotated import LIMIT, RotatedFile
from pyvmm.virtio import features as f
from pyvmm.virtio import ids
from pyvmm.virtio.observer import Observer, bytes_of
from pyvmm.virtio.transport import interrupt, mmio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.ring.chain import Chain

#: Bytes of a chain that a line shows.
SHOWN = 32
#: Bytes of a request that the device's ``describe`` gets.
DESCRIBED = 64

_REGISTERS = {
    mmio.MAGIC_VALUE: "MagicValue",
    mmio.VERSION: "Version",
    mmio.DEVICE_ID: "DeviceID",
    mmio.VENDOR_ID: "VendorID",
    mmio.DEVICE_FEATURES: "DeviceFeatures",
    mmio.DEVICE_FEATURES_SEL: "DeviceFeaturesSel",
    mmio.DRIVER_FEATURES: "DriverFeatures",
    mmio.DRIVER_FEATURES_SEL: "DriverFeaturesSel",
    mmio.QUEUE_SEL: "QueueSel",
    mmio.QUEUE_SIZE_MAX: "QueueSizeMax",
    mmio.QUEUE_SIZE: "QueueSize",
    mmio.QUEUE_READY: "QueueReady",
    mmio.QUEUE_NOTIFY: "QueueNotify",
    mmio.INTERRUPT_STATUS: "InterruptStatus",
    mmio.INTERRUPT_ACK: "InterruptACK",
    mmio.STATUS: "Status",
    mmio.QUEUE_DESC_LOW: "QueueDescLow",
    mmio.QUEUE_DESC_HIGH: "QueueDescHigh",
    mmio.QUEUE_DRIVER_LOW: "QueueDriverLow",
    mmio.QUEUE_DRIVER_HIGH: "QueueDriverHigh",
    mmio.QUEUE_DEVICE_LOW: "QueueDeviceLow",
    mmio.QUEUE_DEVICE_HIGH: "QueueDeviceHigh",
    mmio.SHM_SEL: "SHMSel",
    mmio.SHM_LEN_LOW: "SHMLenLow",
    mmio.SHM_LEN_HIGH: "SHMLenHigh",
    mmio.SHM_BASE_LOW: "SHMBaseLow",
    mmio.SHM_BASE_HIGH: "SHMBaseHigh",
    mmio.CONFIG_GENERATION: "ConfigGeneration",
}
_COUNTS = (mmio.QUEUE_SEL, mmio.QUEUE_SIZE, mmio.QUEUE_SIZE_MAX, mmio.QUEUE_NOTIFY)
_STATUS_BITS = {
    f.ACKNOWLEDGE: "ACKNOWLEDGE",
    f.DRIVER: "DRIVER",
    f.FEATURES_OK: "FEATURES_OK",
    f.DRIVER_OK: "DRIVER_OK",
    f.DEVICE_NEEDS_RESET: "DEVICE_NEEDS_RESET",
    f.FAILED: "FAILED",
}
_INTERRUPT_BITS = {interrupt.USED_BUFFER: "used buffer", interrupt.CONFIG_CHANGE: "configuration change"}
_LOG = logging.getLogger(__name__)


class Trace(Observer):
    """Writes what *device* and its driver do to *file*, which it closes; else to this logger (INFO)."""

    def __init__(self, device: VirtioDevice, file: TraceFile | None = None) -> None:
        self._device = device
        self._name = device.name
        self._file = file
        self._began = time.monotonic() if file is None else file.began
        self._selected = {mmio.DEVICE_FEATURES_SEL: 0, mmio.DRIVER_FEATURES_SEL: 0}
        self._taken: dict[tuple[int, int], float] = {}
        self._fields = {device.config.place(name): name for name in device.config.fields()}

    def write(self, text: str) -> None:
        """One line. Any thread."""
        line = f"[{time.monotonic() - self._began:12.6f}] {self._name} {text}"
        if self._file is None:
            _LOG.info("%s", line, extra={"plain": True})
        else:
            self._file.write(f"{line}\n".encode(errors="replace"))

    def started(self) -> None:
        """The driver is ready."""
        runtime = self._device.runtime
        queues = ", ".join(f"{queue.index}: {queue.size}" for queue in runtime.queues if queue.ready)
        self.write(f"started, features {self._features(runtime.driver_features)}; queues {queues or 'none'}")

    def stopped(self) -> None:
        """Reset, or the end."""
        self._taken.clear()
        self.write("stopped")

    def closed(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._fd = -1

    def read(self, offset: int, size: int, value: int) -> None:
        """A register, or the configuration space."""
        self._access("read ", "->", offset, size, value)

    def wrote(self, offset: int, size: int, value: int) -> None:
        """A register, or the configuration space."""
        if offset in self._selected:
            self._selected[offset] = value
        self._access("write", "<-", offset, size, value)

    def kicked(self, queue: int) -> None:
        """A doorbell."""
        self.write(f"kick  queue {queue}")

    def popped(self, queue: int, chain: Chain) -> None:
        """A request."""
        self._taken[queue, chain.head] = time.monotonic()
        given = bytes_of(chain.readable, DESCRIBED)
        said = printable(self._describe(queue, given))  # it may be the guest's own text
        text = f"chain queue {queue} head {chain.head}: {chain.readable_size} bytes to read"
        text += f", room for {chain.writable_size}"
        self.write(text + (f": {said}" if said else "") + _hex(given, chain.readable_size))

    def pushed(self, queue: int, chain: Chain, written: int) -> None:
        """Its answer."""
        taken = self._taken.pop((queue, chain.head), None)
        if taken is None:
            self.write(f"used  queue {queue} head {chain.head}: refused, a broken chain; {written} written")
            return
        micro = (time.monotonic() - taken) * 1e6
        data = bytes_of(chain.writable, min(written, SHOWN))
        self.write(
            f"used  queue {queue} head {chain.head}: {written} written in {micro:.0f} us{_hex(data, written)}"
        )

    def interrupted(self, cause: str) -> None:
        """An interrupt."""
        self.write(f"irq   {cause}")

    def _describe(self, queue: int, given: bytes) -> str:
        try:
            return self._device.describe(queue, given)
        except Exception as error:  # it is for the trace alone: the device goes on
            return f"(its describe failed in {exceptions.raised_at(error)}: {exceptions.describe(error)})"

    def _access(self, verb: str, arrow: str, offset: int, size: int, value: int) -> None:
        if offset >= mmio.CONFIG:
            self.write(f"{verb} config {self._place(offset - mmio.CONFIG, size)} {arrow} {value:#x}")
            return
        name = _REGISTERS.get(offset)
        if name is None or size != 4:
            self.write(f"{verb} of {size} bytes at {offset:#05x}, no register {arrow} {value:#x}")
        else:
            self.write(f"{verb} {name} {arrow} {self._value(offset, value)}")

    def _value(self, offset: int, value: int) -> str:
        if offset == mmio.STATUS:
            return f"{value:#x} ({_bits(value, _STATUS_BITS) or 'reset'})"
        if offset in (mmio.INTERRUPT_STATUS, mmio.INTERRUPT_ACK):
            return f"{value:#x} ({_bits(value, _INTERRUPT_BITS) or 'nothing'})"
        if offset == mmio.DEVICE_ID:
            return f"{value} ({ids.NAMES.get(value, 'unknown to pyvmm')})"
        if offset in (mmio.DEVICE_FEATURES, mmio.DRIVER_FEATURES):
            sel = self._selected[offset + 4]
            return f"{value:#x} (word {sel}: {self._features(value << 32 * min(sel, 2))})"
        return f"{value:#x}" if value > 9 and offset not in _COUNTS else str(value)

    def _features(self, features: int) -> str:
        names = self._device.feature_names
        own = [name for bit, name in names.items() if features & bit]
        rest = features & ~sum(names)
        return ", ".join([*own, *([f.describe(rest)] if rest or not own else [])])

    def _place(self, offset: int, size: int) -> str:
        exact = self._fields.get((offset, size))
        if exact:
            return exact
        for (at, length), name in self._fields.items():
            if at <= offset < at + length:
                return f"{name}[{offset - at}:{offset - at + size}]"
        return f"{offset:#x}:{offset + size:#x}, past the end"


class TraceFile(HostObject):
    """The file of one trace or several, emptied, of at most ``rotated.LIMIT`` bytes as a RotatedFile.

    It is closed when each user has closed it, once. Raises StartError when it cannot be opened.
    """

    largest_file = LIMIT

    def __init__(self, path: str) -> None:
        try:
            self._file = RotatedFile(path)
        except OSError as error:
            raise StartError(f"--trace-device: {path} cannot be written: {error.strerror}") from None
        #: When it was opened, by ``time.monotonic``.
        self.began = time.monotonic()
        self._lock = allocate_lock()
        self._users = 1

    def share(self) -> TraceFile:
        """This, for one user more."""
        with self._lock:
            self._users += 1
        return self

    def write(self, line: bytes) -> None:
        """Append *line*; a full disk loses it, and the guest continues. Any thread."""
        with self._lock, contextlib.suppress(OSError):
            self._file.writev([line])

    def give(self, left: bytes, fd: int) -> None:
        """The process before has written to the file."""
        self._file.refresh()

    def close(self) -> None:
        """One user has ended."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._file.close()


def _hex(data: bytes, size: int) -> str:
    if not data:
        return ""
    return f" | {data[:SHOWN].hex(' ')}{' ...' if size > SHOWN else ''}"


def _bits(value: int, names: dict[int, str]) -> str:
    words = [name for bit, name in names.items() if value & bit]
    other = value & ~sum(names)
    return " ".join([*words, *([f"{other:#x}"] if other else [])])
