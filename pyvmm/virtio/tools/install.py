"""From ``--trace-device``, ``--inject`` and ``--record`` to observers of the devices they name."""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.virtio.tools import inject
from pyvmm.virtio.tools.record import Recorder
from pyvmm.virtio.tools.trace import Trace, TraceFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.config import Config
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.observer import Observer

#: Names every device.
ALL = "all"


class Tools:
    """What *config* asks for, of *devices* that have their names.

    From the device to the driver stand the recorder, the faults, the trace: a recording has what the device
    did, a trace what the driver sees. *host_objects* keeps their files open for the next machine. Raises
    ConfigError for what cannot be done.
    """

    def __init__(
        self, config: Config, devices: Sequence[VirtioDevice], host_objects: HostObjects | None = None
    ) -> None:
        self._host_objects = host_objects
        # (devices, file), (devices, faults, seed), (devices, file).
        self._traces: list[tuple[list[VirtioDevice], str]] = []
        self._faults: list[tuple[list[VirtioDevice], dict[str, inject.Fault], int]] = []
        self._records: list[tuple[list[VirtioDevice], str]] = []
        # Open trace files, by their paths: one may have several devices.
        self._files: dict[str, TraceFile] = {}
        for text in config.trace_device:
            name, _, path = text.partition("=")
            self._traces.append((_named("trace-device", name, devices), path))
        for text in config.inject:
            name, faults, seed = inject.parse(text)
            found = _named("inject", name, devices)
            self._faults.append((found, faults, seed))
            for device in found:
                inject.check(device)
        for text in config.record:
            name, _, path = text.partition("=")
            if not path:
                raise ConfigError(f"--record {text}: name a file, too: --record {name}=FILE")
            found = _named("record", name, devices)
            if len(found) > 1:
                names = ", ".join(device.name for device in found)
                raise ConfigError(
                    f"--record {text}: {name} is {names}; a recording has one device, so name it"
                )
            if found[0].external:
                raise ConfigError(
                    f"--record {text}: its queues are served outside this process; nothing would be recorded"
                )
            self._records.append((found, path))

    def observers(self, device: VirtioDevice) -> list[Observer]:
        """Those of *device*, the nearest to it first.

        Raises StartError for a file that cannot be written, ConfigError for faults that cannot be made.
        """
        found: list[Observer] = [
            self._recorder(device, path) for devices, path in self._records if device in devices
        ]
        found += [
            inject.Injector(device, faults, seed)
            for devices, faults, seed in self._faults
            if device in devices
        ]
        found += [
            Trace(device, self._file(path).share() if path else None)
            for devices, path in self._traces
            if device in devices
        ]
        return found

    def close(self) -> None:
        """Close the trace files, each as soon as its last trace has. Idempotent."""
        while self._files:
            self._files.popitem()[1].close()

    def _file(self, path: str) -> TraceFile:
        if path not in self._files:
            if self._host_objects is None:
                self._files[path] = TraceFile(path)
            else:
                self._files[path] = _kept_trace(path, self._host_objects).share()
        return self._files[path]

    def _recorder(self, device: VirtioDevice, path: str) -> Recorder:
        if self._host_objects is None:
            return Recorder(path).serve(device)
        return _kept_recorder(path, self._host_objects).serve(device)


def open_files(config: Config, host_objects: HostObjects) -> None:
    """Open the files that *config* names for the tools, for the ``Tools`` of all machines.

    Raises StartError for one that cannot be written.
    """
    for text in config.trace_device:
        if path := text.partition("=")[2]:
            _kept_trace(path, host_objects)
    for text in config.record:
        if path := text.partition("=")[2]:
            _kept_recorder(path, host_objects)


def _kept_trace(path: str, host_objects: HostObjects) -> TraceFile:
    return host_objects.open(("trace", path), lambda: TraceFile(path))


def _kept_recorder(path: str, host_objects: HostObjects) -> Recorder:
    return host_objects.open(("record", path), lambda: Recorder(path))


def _named(option: str, name: str, devices: Sequence[VirtioDevice]) -> list[VirtioDevice]:
    """The devices called *name*: ``net1``, or ``net`` for all of the kind, or ``all``."""
    found = [device for device in devices if name in (device.name, device.name.rstrip("0123456789"), ALL)]
    if not found:
        known = ", ".join(device.name for device in devices) or "no virtio devices"
        raise ConfigError(f"--{option}: no device is called {name!r}; there are {known}, and {ALL!r} for all")
    return found
