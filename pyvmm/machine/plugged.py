"""The virtio devices of a config over all its machines: they stay plugged in while the guest reboots."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvmm.config import Config
    from pyvmm.virtio.device import VirtioDevice


class Plugged:
    """Keeps the devices that can stay (``stays_plugged``): what they have open on the host is opened once.

    So a pseudo-terminal keeps its name, a file its contents, a snapshot disk what was written to it.
    ``close`` comes after the last machine.
    """

    def __init__(self) -> None:
        self._kept: dict[object, VirtioDevice] = {}
        self._names: dict[VirtioDevice, str] = {}  # before a machine numbered them
        self._on_quit: Callable[[], object] | None = None

    def devices(self, config: Config, on_quit: Callable[[], object]) -> Iterator[VirtioDevice]:
        """The devices of *config*, the same one each time; those that cannot stay are made anew.

        *on_quit* replaces the last machine's. Raises ConfigError, or a StartError when this host cannot.
        """
        from pyvmm.virtio.options import make_devices

        self._on_quit = on_quit
        for device in make_devices(config.devices, self._quit, config.name, self._kept):
            device.name = self._names.setdefault(device, device.name)
            device.runtime.kept = device.stays_plugged
            yield device

    def close(self) -> None:
        """Close the devices. Idempotent. Raises what a device raises."""
        while self._kept:
            _, device = self._kept.popitem()
            device.runtime.kept = False
            device.runtime.close()

    def _quit(self) -> None:
        if self._on_quit is not None:
            self._on_quit()
