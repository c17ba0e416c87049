"""The MMIO transport of a device with observers that want to see its registers and interrupts."""

from __future__ import annotations

from pyvmm.virtio.observer import CONFIGURATION, NEEDS_RESET, USED
from pyvmm.virtio.transport.mmio import VirtioMmio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.board.device import Line
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.observer import Observer


class ObservedMmio(VirtioMmio):
    """Registers whose accesses all come here and are told to the device's observers."""

    observed = True

    @property
    def _observers(self) -> list[Observer]:
        """Those that want it, the nearest to the driver first."""
        return [observer for observer in reversed(self.runtime.observers) if observer.registers]

    def read(self, offset: int, size: int) -> int:
        """As any transport."""
        value = super().read(offset, size)
        for observer in self._observers:
            observer.read(offset, size, value)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """As any transport."""
        for observer in self._observers:
            observer.wrote(offset, size, value)
        super().write(offset, size, value)

    def used(self, queue: int) -> None:
        """As any transport."""
        self._interrupted(USED)
        super().used(queue)

    def config_changed(self) -> None:
        """As any transport."""
        self._interrupted(CONFIGURATION)
        super().config_changed()

    def needs_reset(self) -> None:
        """As any transport."""
        self._interrupted(NEEDS_RESET)
        super().needs_reset()

    def _interrupted(self, cause: str) -> None:
        for observer in self._observers:
            observer.interrupted(cause)


def mmio_for(
    device: VirtioDevice,
    memory: GuestMemory,
    line: Line,
    kick: Callable[[int], object],
    failed: Callable[[str, Exception], object] | None = None,
) -> VirtioMmio:
    """The transport for *device*, which is attached; the parameters are VirtioMmio's."""
    observed = any(observer.registers for observer in device.runtime.observers)
    return (ObservedMmio if observed else VirtioMmio)(device, memory, line, kick, failed)
