"""The MMIO transport: a virtio device as registers in a page. Section 4.2.2.

Register accesses come from vCPU threads. The device's loop calls the methods of ``runtime.Transport`` alone.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device, Line
from pyvmm.errors import PyvmmError
from pyvmm.host.notice import notice
from pyvmm.virtio import features as f
from pyvmm.virtio import persist as device_state
from pyvmm.virtio.errors import QueueError, StateError
from pyvmm.virtio.runtime import Transport
from pyvmm.virtio.transport import persist
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE, USED_BUFFER, Interrupt
from pyvmm.virtio.transport.registers import Registers

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


class VirtioMmio(Device, Transport):
    """The registers of *device*, whose runtime is attached.

    :param memory: the guest's
    :param line: the interrupt; every cause is one ``pulse``
    :param kick: makes the device's loop run queue n soon: the queue's eventfd, written
    :param failed: gets the name and the exception of a device whose own code is defective
    """

    #: Whether every register access must come here (ObservedMmio).
    observed = False

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        line: Line,
        kick: Callable[[int], object],
        failed: Callable[[str, Exception], object] | None = None,
    ) -> None:
        self.device = device
        self.runtime = device.runtime
        self.name = device.name
        #: (base, bytes) of shared memory regions by identifier, once they are placed.
        self.shared: dict[int, tuple[int, int]] = {}
        #: Called with a queue's number when the driver's notification comes as an exit, instead of *kick*.
        self.on_notify: Callable[[int], object] | None = None
        self.interrupt = Interrupt(line)
        self._memory = memory
        self._kick = kick
        self._failed = failed
        self._closed = False
        self._control = allocate_lock()  # what the driver sets up; held while the device starts and stops
        self._page: memoryview | None = None
        self._status_lock = allocate_lock()  # Status in the page alone: never held with anything else
        self._registers = Registers()

    def mirror_registers(self, page: memoryview) -> None:
        """Keep the value of each readable register in *page*, which the guest reads without an exit.

        *page* has SIZE bytes.
        """
        with self._control:
            numbers = self._page = page.cast("I")
            self.interrupt.mirror_status(numbers[INTERRUPT_STATUS >> 2 : (INTERRUPT_STATUS >> 2) + 1])
            self.device.config.mirror(
                page[CONFIG:], numbers[CONFIG_GENERATION >> 2 : (CONFIG_GENERATION >> 2) + 1]
            )
            self._mirror(_READABLE)

    def _mirror(self, offsets: tuple[int, ...]) -> None:
        page = self._page
        if page is None:
            return
        for offset in offsets:
            if offset == STATUS:
                with self._status_lock:
                    page[STATUS >> 2] = self._read(STATUS)
            else:
                page[offset >> 2] = self._read(offset)

    # Registers

    def read(self, offset: int, size: int) -> int:
        """A register, or bytes of the configuration space."""
        if offset == INTERRUPT_STATUS and size == 4:
            return self.interrupt.read()
        if offset >= CONFIG:
            return int.from_bytes(self.device.config.read(offset - CONFIG, size), "little")
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
                self._mirror(_READABLE)
        else:
            with self._control:
                self._write(offset, value)
                self._mirror(_FOLLOWS.get(offset, ()))

    def _read(self, offset: int) -> int:
        if offset == STATUS:
            return self._registers.status | (f.DEVICE_NEEDS_RESET if self._registers.needs_reset else 0)
        if offset in _CONSTANT:
            return _CONSTANT[offset]
        if offset == DEVICE_ID:
            return self.device.device_id
        if offset == DEVICE_FEATURES:
            sel = self._registers.device_features_sel
            return self.device.offered_features >> 32 * sel & _MASK32 if sel < 2 else 0
        if offset == CONFIG_GENERATION:
            return self.device.config.generation
        if SHM_LEN_LOW <= offset <= SHM_BASE_HIGH:
            base, length = self.shared.get(self._registers.shm_sel, (_NOWHERE, _NOWHERE))
            value = length if offset < SHM_BASE_LOW else base
            return value >> (32 if offset & 4 else 0) & _MASK32
        queues = self.runtime.queues
        if offset in (QUEUE_SIZE_MAX, QUEUE_READY):
            if self._registers.queue_sel >= len(queues):
                return 0
            queue = queues[self._registers.queue_sel]
            return queue.max_size if offset == QUEUE_SIZE_MAX else int(queue.ready)
        return self._odd("read", offset, 4)

    def _write(self, offset: int, value: int) -> None:
        if offset == DEVICE_FEATURES_SEL:
            self._registers.device_features_sel = value
        elif offset == DRIVER_FEATURES_SEL:
            self._registers.driver_features_sel = value
        elif offset == QUEUE_SEL:
            self._registers.queue_sel = value
        elif offset == SHM_SEL:
            self._registers.shm_sel = value
        elif offset == DRIVER_FEATURES:
            # Final once FEATURES_OK is set (3.1.1). Of what a selector above 1 writes one value is kept: all
            # of its bits are features that no device here offers.
            sel = self._registers.driver_features_sel
            if not self._registers.status & f.FEATURES_OK:
                kept = self._registers.driver_features & ~(_MASK32 << 32 * min(sel, 2))
                self._registers.driver_features = kept | value << 32 * min(sel, 2)
        else:
            self._set_up_queue(offset, value)

    def _set_up_queue(self, offset: int, value: int) -> None:
        if offset not in (QUEUE_SIZE, QUEUE_READY) and offset not in _ADDRESSES:
            self._odd("write", offset, 4)
            return
        queues, selected = self.runtime.queues, self._registers.queue_sel
        if selected >= len(queues) or self._registers.status & f.DRIVER_OK:
            notice(
                f"virtio {self.name} queue",
                f"{self.name}: a write to queue {selected} was ignored; queues are set up before "
                f"DRIVER_OK, and it has {len(queues)}",
            )
            return
        queue = queues[selected]
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
        registers = self._registers
        new = value & ~(registers.status | f.DEVICE_NEEDS_RESET)
        if registers.status & ~value:
            notice(
                f"virtio {self.name} status",
                f"{self.name}: status {value:#x} clears bits of {registers.status:#x}; only a reset does",
            )
        for bit, before in _STEPS:
            if new & bit and registers.status & before == before and self._step(bit):
                registers.status |= bit
        registers.status |= new & f.FAILED

    def _step(self, bit: int) -> bool:
        if bit == f.FEATURES_OK:
            wrong = self._registers.driver_features & ~self.device.offered_features
            if wrong or not self._registers.driver_features & f.F_VERSION_1:
                what = f"features not offered ({f.describe(wrong)})" if wrong else "no VERSION_1"
                notice(f"virtio {self.name} features", f"{self.name}: the driver asked for {what}; refused")
                return False
        elif bit == f.DRIVER_OK:
            try:
                self.runtime.start(self._memory, self._registers.driver_features, self)
            except Exception as error:
                self._registers.needs_reset = True
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
            # Its interrupts do not come through here, and Linux ignores one while the status is 0. The bit
            # stays beside a configuration change, too: two edges at once may be one interrupt.
            self.interrupt.always(USED_BUFFER)
        self.interrupt.started(
            exact=not (self.device.external or self._registers.driver_features & f.F_EVENT_IDX)
        )
        for queue in self.runtime.queues:  # a notification may have come before the start
            if queue.ready:
                self._kick(queue.index)

    def _reset(self) -> None:
        self.runtime.stop()
        self.interrupt.reset()
        self._registers = Registers()

    def _notified(self, index: int) -> None:
        """The driver's notification as an exit: where there is an ioeventfd, KVM signals that instead."""
        if index < len(self.runtime.queues):
            (self.on_notify or self._kick)(index)
        else:
            notice(f"virtio {self.name} notify", f"{self.name}: kick of queue {index}, which it has not")

    def _odd(self, verb: str, offset: int, size: int) -> int:
        notice(
            f"virtio {self.name} {verb}",
            f"{self.name}: {verb} of {size} bytes at {offset:#x} of its registers, where no such register is",
        )
        return 0

    # For the runtime

    def used(self, queue: int) -> None:
        """Interrupt the driver for used elements."""
        self.interrupt.raise_(USED_BUFFER)

    def config_changed(self) -> None:
        """Interrupt the driver for a change of the configuration space."""
        self.interrupt.raise_(CONFIG_CHANGE)

    def needs_reset(self) -> None:
        """Say so in Status, and in a configuration interrupt (2.1.2)."""
        self._registers.needs_reset = True
        self._mirror((STATUS,))
        self.interrupt.raise_(CONFIG_CHANGE)

    def kick(self, queue: int) -> None:
        """Run a queue again."""
        self._kick(queue)

    def failed(self, error: Exception) -> None:
        """A defect in the device's code."""
        if self._failed is None:
            raise error
        self._failed(self.name, error)

    # The machine

    def reset(self) -> None:
        """As the driver's reset."""
        with self._control:
            self._reset()
            self._mirror(_READABLE)

    def close(self) -> None:
        """Stop and close the device; a defect in its code is reported, not raised. Idempotent."""
        with self._control:
            if self._closed:
                return
            self._closed = True
            try:
                try:
                    self.runtime.stop()
                finally:
                    self.runtime.close()
            except Exception as error:
                if self._failed is None:
                    raise
                from pyvmm.host import exceptions

                place, text = exceptions.raised_at(error), exceptions.describe(error)
                what = f"failed while it was closed, in {place}: {text}"
                notice("virtio close", f"{self.name} {what}")

    def save(self) -> dict[str, Any]:
        """The state of transport and device; the vCPUs are paused. Waits for what the device has under way.

        The device is held from then on, until ``load`` or ``resume``: what it did to memory and rings after
        the save, the saved state would not know.
        """
        with self._control, self.runtime.lock:
            if not self.runtime.held:
                self.runtime.hold()
            return persist.save(self._registers, self.interrupt.status, device_state.save(self.runtime))

    def resume(self) -> None:
        """The machine goes on after ``save``, with or without a ``load``. Any thread."""
        if self.runtime.held:
            with self._control, self.runtime.lock:
                if self.runtime.held:
                    self.runtime.release()

    def load(self, state: dict[str, Any]) -> None:
        """Restore what ``save`` returned; a device that was running runs again.

        Raises StateError for a state that does not fit: the device is as after a reset then.
        """
        persist.check(self.name, state)
        with self._control:
            self._reset()
            runtime, registers = self.runtime, self._registers
            try:
                if state["driver_features"] & ~self.device.offered_features:
                    raise ValueError("it has features that this device does not offer")
                device_state.load(runtime, state["device"])
                # Before the start: what the device signals in it is added.
                persist.load(registers, state)
                self.interrupt.status = state["interrupt_status"]
                if registers.status & f.DRIVER_OK and not registers.needs_reset:
                    runtime.start(self._memory, registers.driver_features, self)
            except BaseException as error:
                self._reset()
                self._mirror(_READABLE)
                if isinstance(error, QueueError | LookupError | TypeError | ValueError):
                    raise StateError(
                        f"{self.name}: the saved state does not fit this device ({error}); give it the "
                        "options and the memory it had when it was saved"
                    ) from None
                raise
            if runtime.active:
                self._started()
                if len(self.device.config):
                    self.config_changed()  # it may have changed while it was saved
            self._mirror(_READABLE)


# Registers that this mirrors; the interrupt and the configuration space mirror theirs. What a write of one
# changes in others; a write of Status changes all.
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
