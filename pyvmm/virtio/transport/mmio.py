"""The MMIO transport: a virtio device as registers in a page. Section 4.2.2.

vCPU threads come here with register accesses; the device's own loop never does, but for the
signals it gives.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device, Line
from pyvmm.errors import PyvmmError
from pyvmm.host.notice import notice
from pyvmm.virtio import features as f
from pyvmm.virtio.device import Signal
from pyvmm.virtio.errors import QueueError, StateError, check_numbers, check_version
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE, USED_BUFFER, Interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.memory.guest import GuestMemory
    from pyvmm.virtio.device import VirtioDevice

# Registers (4.2.2)
MAGIC_VALUE = 0x000
VERSION = 0x004
DEVICE_ID = 0x008
VENDOR_ID = 0x00C
DEVICE_FEATURES = 0x010
DEVICE_FEATURES_SEL = 0x014
DRIVER_FEATURES = 0x020
DRIVER_FEATURES_SEL = 0x024
QUEUE_SEL = 0x030
QUEUE_SIZE_MAX = 0x034
QUEUE_SIZE = 0x038
QUEUE_READY = 0x044
QUEUE_NOTIFY = 0x050
INTERRUPT_STATUS = 0x060
INTERRUPT_ACK = 0x064
STATUS = 0x070
QUEUE_DESC_LOW = 0x080
QUEUE_DESC_HIGH = 0x084
QUEUE_DRIVER_LOW = 0x090
QUEUE_DRIVER_HIGH = 0x094
QUEUE_DEVICE_LOW = 0x0A0
QUEUE_DEVICE_HIGH = 0x0A4
SHM_SEL = 0x0AC
SHM_LEN_LOW = 0x0B0
SHM_LEN_HIGH = 0x0B4
SHM_BASE_LOW = 0x0B8
SHM_BASE_HIGH = 0x0BC
CONFIG_GENERATION = 0x0FC
CONFIG = 0x100

#: Bytes of the window: a page, so that a guest's mapping of one device shows no other.
SIZE = 0x1000

MAGIC = 0x74726976  # "virt"
#: "PVMM", little-endian. The specification leaves the value to the vendor.
VENDOR = 0x4D4D5650

STATE_VERSION = 1

_MASK32 = 0xFFFF_FFFF
#: What a read of a shared memory region that is not there gives.
_NOWHERE = (1 << 64) - 1

_ADDRESSES = {
    QUEUE_DESC_LOW: ("desc", 0),
    QUEUE_DESC_HIGH: ("desc", 32),
    QUEUE_DRIVER_LOW: ("driver", 0),
    QUEUE_DRIVER_HIGH: ("driver", 32),
    QUEUE_DEVICE_LOW: ("device", 0),
    QUEUE_DEVICE_HIGH: ("device", 32),
}


class VirtioMmio(Device, Signal):
    """The registers of *device*.

    :param memory: the guest's
    :param line: the interrupt; every signal is one ``pulse``
    :param kick: makes the device's loop run queue n soon: the queue's eventfd, written
    :param failed: gets the name and the exception of a device whose own code is defective
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        line: Line,
        kick: Callable[[int], object],
        failed: Callable[[str, Exception], object] | None = None,
    ) -> None:
        self.device = device
        self.name = device.name
        #: (base, bytes) of shared memory regions by identifier, once they are placed.
        self.shared: dict[int, tuple[int, int]] = {}
        #: Where there is one CPU for all: called with a queue and whether KVM is to take its kicks.
        self.doorbell: Callable[[int, bool], object] | None = None
        self._prompt: set[int] = set()
        self.interrupt = Interrupt(line)
        self._memory = memory
        self._kick = kick
        self._failed = failed
        self._closed = False
        self._control = allocate_lock()  # what the driver sets up; held while the device starts and stops
        self._page: memoryview | None = None
        self._showing = allocate_lock()  # the page's Status alone: never held with anything else
        self._clear()

    def _clear(self) -> None:
        self._status = 0
        self._needs_reset = False
        self._driver_features = 0
        self._device_features_sel = self._driver_features_sel = 0
        self._queue_sel = self._shm_sel = 0

    def show(self, page: memoryview) -> None:
        """Keep in *page* what a read of each register gives, for a guest that reads them without an exit.

        SIZE bytes. Only a device whose ``config_read`` is its ``config``'s can be shown.
        """
        with self._control:
            words = self._page = page.cast("I")
            self.interrupt.show(words[INTERRUPT_STATUS >> 2 : (INTERRUPT_STATUS >> 2) + 1])
            self.device.config.show(
                page[CONFIG:], words[CONFIG_GENERATION >> 2 : (CONFIG_GENERATION >> 2) + 1]
            )
            self._show(_READABLE)

    def _show(self, offsets: tuple[int, ...]) -> None:
        page = self._page
        if page is None:
            return
        for offset in offsets:
            if offset == STATUS:
                with self._showing:
                    page[STATUS >> 2] = self._read(STATUS)
            else:
                page[offset >> 2] = self._read(offset)

    # Registers

    def read(self, offset: int, size: int) -> int:
        """A register, or bytes of the configuration space."""
        if offset == INTERRUPT_STATUS and size == 4:
            return self.interrupt.read()
        if offset >= CONFIG:
            return int.from_bytes(self.device.config_read(offset - CONFIG, size), "little")
        if size != 4 or offset & 3:
            return self._odd("read", offset, size)
        with self._control:
            return self._read(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        """A register, or bytes of the configuration space."""
        if offset == INTERRUPT_ACK and size == 4:
            self.interrupt.acknowledge(value)
        elif offset == QUEUE_NOTIFY and size == 4:
            self._notified(value)
        elif offset >= CONFIG:
            offset -= CONFIG
            if self.device.config.write(offset, value.to_bytes(size, "little")):
                self.device.config_written(offset, size)
        elif size != 4 or offset & 3:
            self._odd("write", offset, size)
        elif offset == STATUS:
            with self._control:
                self._set_status(value)
                self._show(_READABLE)
        else:
            with self._control:
                self._write(offset, value)
                self._show(_FOLLOWS.get(offset, ()))

    def _read(self, offset: int) -> int:
        if offset == STATUS:
            return self._status | (f.DEVICE_NEEDS_RESET if self._needs_reset else 0)
        if offset in _CONSTANT:
            return _CONSTANT[offset]
        if offset == DEVICE_ID:
            return self.device.device_id
        if offset == DEVICE_FEATURES:
            sel = self._device_features_sel
            return self.device.offered_features >> 32 * sel & _MASK32 if sel < 2 else 0
        if offset == CONFIG_GENERATION:
            return self.device.config.generation
        if SHM_LEN_LOW <= offset <= SHM_BASE_HIGH:
            base, length = self.shared.get(self._shm_sel, (_NOWHERE, _NOWHERE))
            value = length if offset < SHM_BASE_LOW else base
            return value >> (32 if offset & 4 else 0) & _MASK32
        queues = self.device.queues
        if offset in (QUEUE_SIZE_MAX, QUEUE_READY):
            if self._queue_sel >= len(queues):
                return 0
            queue = queues[self._queue_sel]
            return queue.max_size if offset == QUEUE_SIZE_MAX else int(queue.ready)
        return self._odd("read", offset, 4)

    def _write(self, offset: int, value: int) -> None:
        if offset == DEVICE_FEATURES_SEL:
            self._device_features_sel = value
        elif offset == DRIVER_FEATURES_SEL:
            self._driver_features_sel = value
        elif offset == QUEUE_SEL:
            self._queue_sel = value
        elif offset == SHM_SEL:
            self._shm_sel = value
        elif offset == DRIVER_FEATURES:
            # Final once FEATURES_OK is set (3.1.1). Words beyond the second have no features of ours.
            sel = self._driver_features_sel
            if not self._status & f.FEATURES_OK:
                kept = self._driver_features & ~(_MASK32 << 32 * min(sel, 2))
                self._driver_features = kept | value << 32 * min(sel, 2)
        else:
            self._set_up_queue(offset, value)

    def _set_up_queue(self, offset: int, value: int) -> None:
        if offset not in (QUEUE_SIZE, QUEUE_READY) and offset not in _ADDRESSES:
            self._odd("write", offset, 4)
            return
        queues = self.device.queues
        if self._queue_sel >= len(queues) or self._status & f.DRIVER_OK:
            notice(
                f"virtio {self.name} queue",
                f"{self.name}: a write to queue {self._queue_sel} was ignored; queues are set up before "
                f"DRIVER_OK, and it has {len(queues)}",
            )
            return
        queue = queues[self._queue_sel]
        if offset == QUEUE_READY:
            queue.ready = bool(value & 1)
        elif offset == QUEUE_SIZE:
            queue.size = value
        else:
            name, shift = _ADDRESSES[offset]
            setattr(queue, name, getattr(queue, name) & ~(_MASK32 << shift) | value << shift)

    def _set_status(self, value: int) -> None:
        """The driver's progress (2.1, 3.1). Zero resets; a bit once set stays until then."""
        if value == 0:
            self._reset()
            return
        new = value & ~(self._status | f.DEVICE_NEEDS_RESET)
        if self._status & ~value:
            notice(
                f"virtio {self.name} status",
                f"{self.name}: status {value:#x} clears bits of {self._status:#x}; only a reset does that",
            )
        for bit, before in _STEPS:
            if new & bit and self._status & before == before and self._step(bit):
                self._status |= bit
        self._status |= new & f.FAILED

    def _step(self, bit: int) -> bool:
        device = self.device
        if bit == f.FEATURES_OK:
            wrong = self._driver_features & ~device.offered_features
            if wrong or not self._driver_features & f.F_VERSION_1:
                what = f"features not offered ({f.describe(wrong)})" if wrong else "no VERSION_1"
                notice(f"virtio {self.name} features", f"{self.name}: the driver asked for {what}; refused")
                return False
        elif bit == f.DRIVER_OK:
            try:
                device.start(self._memory, self._driver_features, self)
            except Exception as error:
                self._needs_reset = True
                if not isinstance(error, PyvmmError | OSError):
                    self.failed(error)
                    return True
                notice(f"virtio {self.name} start", f"{self.name} does not start: {error}")
                self.interrupt.raise_(CONFIG_CHANGE)
                return True
            self._started()
        return True

    def _started(self) -> None:
        if self.device.external:
            # Its interrupts do not come through here; Linux drops one whose status says nothing. Beside a
            # configuration change, too: two edges at once may be one interrupt.
            self.interrupt.always(USED_BUFFER)
        self.interrupt.started(exact=not (self.device.external or self._driver_features & f.F_EVENT_IDX))
        for queue in self.device.queues:  # a kick may have come before
            if queue.ready:
                self._kick(queue.index)

    def _reset(self) -> None:
        self.device.stop()
        self.interrupt.reset()
        self._clear()

    def _notified(self, index: int) -> None:
        """A kick that made it here: KVM took it for us where it could."""
        if index < len(self.device.queues):
            if index not in self._prompt or not self.device.run_promptly(index):
                self._kick(index)
        else:
            notice(f"virtio {self.name} notify", f"{self.name}: kick of queue {index}, which it has not")

    def _odd(self, verb: str, offset: int, size: int) -> int:
        notice(
            f"virtio {self.name} {verb}",
            f"{self.name}: {verb} of {size} bytes at {offset:#x} of its registers, where no such register is",
        )
        return 0

    # Signals of the device, from whoever runs it

    def used(self, queue: int) -> None:
        """Used elements: one edge."""
        self.interrupt.raise_(USED_BUFFER)

    def config(self) -> None:
        """The configuration space has changed."""
        self.interrupt.raise_(CONFIG_CHANGE)

    def needs_reset(self) -> None:
        """Say so in Status, and in a configuration interrupt (2.1.2)."""
        self._needs_reset = True
        self._show((STATUS,))
        self.interrupt.raise_(CONFIG_CHANGE)

    def kick(self, queue: int) -> None:
        """Run a queue again."""
        self._kick(queue)

    def prompt(self, queue: int, on: bool) -> bool:
        """Have the vCPU that kicks *queue* run it itself, or no more; returns whether it does."""
        if self.doorbell is None:
            return False
        if on != (queue in self._prompt):
            self.doorbell(queue, not on)
            self._prompt ^= {queue}
        return on

    def failed(self, error: Exception) -> None:
        """A defect in the device's code."""
        if self._failed is None:
            raise error
        self._failed(self.name, error)

    # Life

    def reset(self) -> None:
        """As the driver's reset."""
        with self._control:
            self._reset()
            self._show(_READABLE)

    def close(self) -> None:
        """Stop and close the device; a defect in its code is told and holds up nobody. Idempotent."""
        with self._control:
            if self._closed:
                return
            self._closed = True
            try:
                try:
                    self.device.stop()
                finally:
                    self.device.close()
            except Exception as error:
                if self._failed is None:
                    raise
                from pyvmm.host import blame

                what = f"failed while it was closed, in {blame.place(error)}: {blame.describe(error)}"
                notice("virtio close", f"{self.name} {what}")

    def save(self) -> dict[str, object]:
        """Transport and device; the vCPUs are paused. Waits for what the device has under way.

        From then on the device stands still, until ``load`` or ``resume``: what it did further, it would do
        behind the back of what is saved.
        """
        with self._control, self.device.busy:
            if not self.device.held:
                self.device.hold()
            return {
                "version": STATE_VERSION,
                **{name: getattr(self, name) for name in _SAVED},
                "device": self.device.save(),
            }

    def resume(self) -> None:
        """The machine goes on after ``save``, with or without a ``load``. Any thread."""
        if self.device.held:
            with self._control, self.device.busy:
                if self.device.held:
                    self.device.release()

    def load(self, state: dict[str, Any]) -> None:
        """Take back what ``save`` gave; a device that was running runs again.

        Raises StateError for a state that does not fit: the device is as after a reset then.
        """
        check_version(self.name, state, STATE_VERSION)
        check_numbers(self.name, state, _SAVED)
        with self._control:
            self._reset()
            try:
                if state["_driver_features"] & ~self.device.offered_features:
                    raise ValueError("it has features that this device does not offer")
                self.device.load(state["device"])
                for name in _SAVED:  # before the start: what the device signals at once comes on top
                    setattr(self, name, state[name])
                if state["_status"] & f.DRIVER_OK and not state["_needs_reset"]:
                    self.device.start(self._memory, state["_driver_features"], self)
            except BaseException as error:
                self._reset()
                self._show(_READABLE)
                if isinstance(error, QueueError | KeyError | TypeError | ValueError):
                    raise StateError(
                        f"{self.name}: the saved state does not fit this device ({error}); give it the "
                        "options and the memory it had when it was saved"
                    ) from None
                raise
            if self.device.active:
                self._started()
                if len(self.device.config):
                    self.config()  # it may have changed while it was saved
            self._show(_READABLE)

    @property
    def _interrupt_status(self) -> int:
        return self.interrupt.status

    @_interrupt_status.setter
    def _interrupt_status(self, value: int) -> None:
        self.interrupt.status = value


# What is saved, and the number each lies below.
_SAVED = {
    "_status": 1 << 8,
    "_needs_reset": 2,
    "_interrupt_status": 4,
    "_driver_features": 1 << 96,
    "_device_features_sel": 1 << 32,
    "_driver_features_sel": 1 << 32,
    "_queue_sel": 1 << 32,
    "_shm_sel": 1 << 32,
}

# Registers whose value is kept where the guest reads it; besides those that the interrupt and the
# configuration space keep. What a write of one changes in others; a write of Status, in all.
_SHARED_MEMORY = (SHM_LEN_LOW, SHM_LEN_HIGH, SHM_BASE_LOW, SHM_BASE_HIGH)
_READABLE = (
    *(MAGIC_VALUE, VERSION, DEVICE_ID, VENDOR_ID, DEVICE_FEATURES, QUEUE_SIZE_MAX, QUEUE_READY, STATUS),
    *_SHARED_MEMORY,
)
_FOLLOWS = {
    DEVICE_FEATURES_SEL: (DEVICE_FEATURES,),
    QUEUE_SEL: (QUEUE_SIZE_MAX, QUEUE_READY),
    QUEUE_READY: (QUEUE_READY,),
    SHM_SEL: _SHARED_MEMORY,
}

_CONSTANT = {MAGIC_VALUE: MAGIC, VERSION: 2, VENDOR_ID: VENDOR}

# Each bit, and those that come before it (3.1.1).
_STEPS = (
    (f.ACKNOWLEDGE, 0),
    (f.DRIVER, f.ACKNOWLEDGE),
    (f.FEATURES_OK, f.ACKNOWLEDGE | f.DRIVER),
    (f.DRIVER_OK, f.ACKNOWLEDGE | f.DRIVER | f.FEATURES_OK),
)
