"""What can be wrong with a virtio device, or with what its driver does."""

from __future__ import annotations

from pyvmm.errors import GuestError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class QueueError(GuestError):
    """The driver broke a rule of the ring itself: the device stops until it is reset."""


class ChainError(GuestError):
    """The driver broke a rule of one descriptor chain: the chain goes back unused, the device goes on."""


class StateError(StartError):
    """A saved state is of another version, of another device, or damaged."""


class DeviceError(StartError):
    """A device cannot be made as asked for on this host."""


def check_numbers(what: str, state: Mapping[str, object], limits: Mapping[str, int]) -> None:
    """Raise StateError unless *state*, which *what* saved, has for each name a number below its limit."""
    for name, limit in limits.items():
        value = state.get(name)
        if not isinstance(value, int) or not 0 <= value < limit:
            raise StateError(
                f"{what}: the saved {name.strip('_')} is {value!r}, which cannot be; the state is damaged"
            )


def check_version(what: str, state: Mapping[str, object], version: int) -> None:
    """Raise StateError unless *state*, which *what* saved, has this *version*."""
    if not isinstance(state, dict) or state.get("version") != version:
        found = state.get("version") if isinstance(state, dict) else state
        raise StateError(
            f"{what}: the saved state has version {found!r}, and this pyvmm reads {version}; "
            "load it with the pyvmm that saved it"
        )
