"""pyvmm: a KVM virtual machine monitor in Python.

>>> from pyvmm import Config, Machine
>>> Machine(Config(firmware="exit.bin", console="none")).run().code
32

>>> import pyvmm
>>> with pyvmm.Guest(memory="512M") as guest:
...     guest.check("uname -r").stdout
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.device import Device as Device
    from pyvmm.config import Config as Config
    from pyvmm.errors import ConfigError as ConfigError
    from pyvmm.errors import GuestError as GuestError
    from pyvmm.errors import PyvmmError as PyvmmError
    from pyvmm.errors import StartError as StartError
    from pyvmm.guest.errors import CommandError as CommandError
    from pyvmm.guest.errors import GuestEnded as GuestEnded
    from pyvmm.guest.errors import GuestFileError as GuestFileError
    from pyvmm.guest.errors import GuestTimeout as GuestTimeout
    from pyvmm.guest.errors import NoCommandsError as NoCommandsError
    from pyvmm.guest.errors import UnwantedOutput as UnwantedOutput
    from pyvmm.guest.guest import Guest as Guest
    from pyvmm.guest.process import Process as Process
    from pyvmm.guest.result import Result as Result
    from pyvmm.machine.ending import Ending as Ending
    from pyvmm.machine.ending import EndingError as EndingError
    from pyvmm.machine.machine import Machine as Machine
    from pyvmm.virtio.device import VirtioDevice as VirtioDevice
    from pyvmm.virtio.errors import ChainError as ChainError
    from pyvmm.virtio.hooks import DEFERRED as DEFERRED
    from pyvmm.virtio.hooks import Deferred as Deferred
    from pyvmm.virtio.ring.chain import Chain as Chain

__version__ = "0.1.0"

#: The public names, and the module of each.
_MODULES = {
    "Chain": "pyvmm.virtio.ring.chain",
    "ChainError": "pyvmm.virtio.errors",
    "CommandError": "pyvmm.guest.errors",
    "Config": "pyvmm.config",
    "ConfigError": "pyvmm.errors",
    "DEFERRED": "pyvmm.virtio.hooks",
    "Deferred": "pyvmm.virtio.hooks",
    "Device": "pyvmm.board.device",
    "Ending": "pyvmm.machine.ending",
    "EndingError": "pyvmm.machine.ending",
    "Guest": "pyvmm.guest.guest",
    "GuestEnded": "pyvmm.guest.errors",
    "GuestError": "pyvmm.errors",
    "GuestFileError": "pyvmm.guest.errors",
    "GuestTimeout": "pyvmm.guest.errors",
    "Machine": "pyvmm.machine.machine",
    "NoCommandsError": "pyvmm.guest.errors",
    "Process": "pyvmm.guest.process",
    "PyvmmError": "pyvmm.errors",
    "Result": "pyvmm.guest.result",
    "StartError": "pyvmm.errors",
    "UnwantedOutput": "pyvmm.guest.errors",
    "VirtioDevice": "pyvmm.virtio.device",
}

__all__ = [*_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """The public names, loaded when first used: a command that needs none pays for none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """All names, also those that are not loaded yet."""
    return sorted({*globals(), *_MODULES})
