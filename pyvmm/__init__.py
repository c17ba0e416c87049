"""pyvmm: a KVM virtual machine monitor in Python.

>>> from pyvmm import Config, Machine
>>> Machine(Config(firmware="exit.bin", console="none")).run().code
32
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config
    from pyvmm.errors import ConfigError, GuestError, PyvmmError, StartError
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.machine import Machine

__version__ = "0.1.0"

__all__ = ["Config", "ConfigError", "Ending", "GuestError", "Machine", "PyvmmError", "StartError"]

_HOMES = {
    "Config": "pyvmm.config",
    "ConfigError": "pyvmm.errors",
    "Ending": "pyvmm.machine.ending",
    "GuestError": "pyvmm.errors",
    "Machine": "pyvmm.machine.machine",
    "PyvmmError": "pyvmm.errors",
    "StartError": "pyvmm.errors",
}


def __getattr__(name: str) -> object:
    """The public names, loaded when first used: a command that needs none pays for none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
