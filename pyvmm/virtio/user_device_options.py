"""The options of ``--device``: a device of the user's, in this process or in one of its own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.config.devices import DeviceOptions
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.options import OptionReader
    from pyvmm.virtio.vhost.isolated import IsolatedProcess


def from_options(reader: OptionReader) -> VirtioDevice:
    """``device``: its class, ``isolated``, and its constructor's arguments.

    Raises ConfigError; with PYVMM_DEBUG set, the Exception that the user's code raised. Of one that is
    isolated StartError, too.
    """
    text = reader.need("class")
    if reader.flag("isolated"):
        from pyvmm.virtio.vhost.isolated import IsolatedDevice

        return IsolatedDevice(_process(text, reader))
    from pyvmm.virtio.user_device import load_class, make

    return make(load_class(text), reader.rest())


def start_isolated(devices: Sequence[DeviceOptions], host_objects: HostObjects) -> None:
    """Start the processes of those *devices* that are isolated, before the process of a machine is forked.

    Raises ConfigError, and DeviceError when the host gives no process.
    """
    from pyvmm.virtio.options import OptionReader

    for number, options in enumerate(devices):
        if options.isolated:
            reader = OptionReader(options, host_objects=host_objects, number=number)
            text = reader.need("class")
            if reader.flag("isolated"):
                _process(text, reader)


def _process(text: str, reader: OptionReader) -> IsolatedProcess:
    from pyvmm.virtio.vhost.isolated import IsolatedProcess

    given = reader.rest()
    return reader.open("process", lambda: IsolatedProcess(text, given))
