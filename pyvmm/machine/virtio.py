"""A machine's virtio devices: made from its config, attached to its bus, looked at by tools."""

from __future__ import annotations

from pyvmm.arch import native
from pyvmm.virtio import ids, one_cpu
from pyvmm.virtio.transport.bus import VirtioBus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.config import Config
    from pyvmm.pykvm import Vm
    from pyvmm.virtio.console.device import VirtioConsole
    from pyvmm.virtio.device import VirtioDevice


def attach_devices(
    bus: VirtioBus,
    vm: Vm,
    config: Config,
    made: Iterator[VirtioDevice],
    given: Sequence[VirtioDevice],
    at_end: Callable[[Callable[[], None]], object],
    host_objects: HostObjects | None,
) -> None:
    """Attach the devices of *config*, which *made* yields, and then those *given* to *bus*, which is empty.

    *at_end* gets what is to be called before the bus is closed, *host_objects* the files of tools. When
    something raises, the devices that were not attached are closed. Raises what *made* raises,
    PlacementError, KvmError, StartError and ConfigError.
    """
    waiting = list(given)
    try:
        for device in made:
            waiting.insert(len(waiting) - len(given), device)  # the config's devices come first
        for device in waiting:
            bus.name(device)
        tools = None
        if config.looked_at:
            from pyvmm.virtio.tools.install import Tools

            tools = Tools(config, waiting, host_objects)
            at_end(tools.close)
        while waiting:
            bus.attach(waiting[0], tools.observers(waiting[0]) if tools is not None else ())
            del waiting[0]
    finally:
        for device in waiting:  # those that were not attached
            device.runtime.close()
    bus.spare_exits(native.chips.READS_SNOOP)
    one_cpu.install(bus.attached, vm)


def consoles_of(bus: VirtioBus, feed: Callable[[bytes], object]) -> list[VirtioConsole]:
    """The consoles on *bus*; *feed* gets a copy of what the guest prints on them."""
    if not any(attached.device.device_id == ids.CONSOLE for attached in bus.attached):
        return []
    from pyvmm.virtio.console.device import VirtioConsole

    consoles = [attached.device for attached in bus.attached if isinstance(attached.device, VirtioConsole)]
    for console in consoles:
        console.tap(feed)
    return consoles
