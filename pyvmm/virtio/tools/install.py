"""From ``--trace-device``, ``--inject`` and ``--record`` to the tools, on the devices they name."""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError
from pyvmm.virtio.tools import inject
from pyvmm.virtio.tools.record import Recorder
from pyvmm.virtio.tools.trace import Trace, open_trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.config import Config
    from pyvmm.virtio.transport.bus import Attached

#: Names every device.
ALL = "all"


def install(attached: Sequence[Attached], config: Config) -> None:
    """Put what *config* asks for on the devices of a machine that has not started yet.

    From the device to the driver stand the recorder, the faults, the trace: a recording has what the device
    did, a trace what the driver sees. Raises ConfigError for what is wrong, StartError for a file.
    """
    for text in config.trace_device:
        name, equals, path = text.partition("=")
        devices = _named("trace-device", name, attached)
        fd = open_trace(path) if equals else None
        for one in devices:
            Trace(one.device, None if fd is None else os.dup(fd)).install(one.device, one.transport)
        if fd is not None:
            os.close(fd)
    for text in config.inject:
        name, faults, seed = inject.parse(text)
        for one in _named("inject", name, attached):
            inject.Injector(one.device, faults, seed).install()
    for text in config.record:
        name, _, path = text.partition("=")
        if not path:
            raise ConfigError(f"--record {text}: name a file, too: --record {name}=FILE")
        devices = _named("record", name, attached)
        if len(devices) > 1:
            names = ", ".join(one.name for one in devices)
            raise ConfigError(f"--record {text}: {name} is {names}; a recording has one device, so name it")
        if devices[0].device.external:
            raise ConfigError(
                f"--record {text}: its queues are served outside this process; nothing would be recorded"
            )
        Recorder(devices[0].device, path).install(devices[0].device, devices[0].transport)


def _named(option: str, name: str, attached: Sequence[Attached]) -> list[Attached]:
    """The devices called *name*: ``net1``, or ``net`` for all of the kind, or ``all``."""
    found = [one for one in attached if name in (one.name, one.name.rstrip("0123456789"), ALL)]
    if not found:
        known = ", ".join(one.name for one in attached) or "no virtio devices"
        raise ConfigError(f"--{option}: no device is called {name!r}; there are {known}, and {ALL!r} for all")
    return found
