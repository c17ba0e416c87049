"""pyvmm: a KVM virtual machine monitor in Python.

>>> from pyvmm import Config, Machine
>>> Machine(Config(firmware="exit.bin", console="none")).run().code
32

>>> with pyvmm.Guest(memory="512M") as guest:
...     guest.check("uname -r").stdout
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.device import Device
    from pyvmm.config import Config
    from pyvmm.errors import ConfigError, GuestError, PyvmmError, StartError
    from pyvmm.guest.errors import CommandError, GuestEnded, GuestTimeout, NoCommandsError, UnwantedOutput
    from pyvmm.guest.guest import Guest
    from pyvmm.guest.process import Process
    from pyvmm.guest.result import Result
    from pyvmm.machine.ending import Ending, EndingError
    from pyvmm.machine.machine import Machine

__version__ = "0.1.0"

__all__ = [
    "CommandError",
    "Config",
    "ConfigError",
    "Device",
    "Ending",
    "EndingError",
    "Guest",
    "GuestEnded",
    "GuestError",
    "GuestTimeout",
    "Machine",
    "NoCommandsError",
    "Process",
    "PyvmmError",
    "Result",
    "StartError",
    "UnwantedOutput",
]

_HOMES = {
    "CommandError": "pyvmm.guest.errors",
    "Config": "pyvmm.config",
    "ConfigError": "pyvmm.errors",
    "Device": "pyvmm.board.device",
    "Ending": "pyvmm.machine.ending",
    "EndingError": "pyvmm.machine.ending",
    "Guest": "pyvmm.guest.guest",
    "GuestEnded": "pyvmm.guest.errors",
    "GuestError": "pyvmm.errors",
    "GuestTimeout": "pyvmm.guest.errors",
    "Machine": "pyvmm.machine.machine",
    "NoCommandsError": "pyvmm.guest.errors",
    "Process": "pyvmm.guest.process",
    "PyvmmError": "pyvmm.errors",
    "Result": "pyvmm.guest.result",
    "StartError": "pyvmm.errors",
    "UnwantedOutput": "pyvmm.guest.errors",
}


def __getattr__(name: str) -> object:
    """The public names, loaded when first used: a command that needs none pays for none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
