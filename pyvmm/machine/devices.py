"""A machine's devices by name."""

from __future__ import annotations

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class UnknownDeviceError(ConfigError, KeyError):
    """The machine has no device of that name; the sentence lists those it has."""

    def __str__(self) -> str:
        return str(self.args[0])  # not KeyError's, which would quote it


class DeviceNames(dict[str, "Any"]):
    """Name to device. A name that no device has raises UnknownDeviceError."""

    def __missing__(self, name: str) -> Any:
        raise UnknownDeviceError(f"this machine has no device {name!r}; it has {', '.join(self)}")
