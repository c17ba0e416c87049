"""What can be wrong with a virtio device, or with what its driver does."""

from __future__ import annotations

from pyvmm.errors import GuestError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class QueueError(GuestError):
    """The driver broke a rule of the ring itself: the device stops until it is reset."""


class ChainError(GuestError):
    """The driver broke a rule of one request: its chain is completed as far as written."""


class StateError(StartError):
    """A saved state is of another version, of another device, or damaged."""


class DeviceError(StartError):
    """A device cannot be made as asked for on this host."""


def check_numbers(what: str, state: Mapping[str, object], limits: Mapping[str, int]) -> None:
    """Raise StateError unless *state*, which *what* saved, has for each name a number below its limit."""
    for name, limit in limits.items():
        value = state.get(name)
        if not isinstance(value, int) or not 0 <= value < limit:
            raise StateError(f"{what}: the saved {name} is {value!r}, which cannot be; the state is damaged")


def check_version(what: str, state: Mapping[str, object], version: int) -> None:
    """Raise StateError unless *state*, which *what* saved, has this *version*.

    It is a major version: it changes when older states can be loaded no more. A minor version of pyvmm may
    save further keys, each with a default for states that lack it; unknown keys are ignored.
    """
    found = state.get("version") if isinstance(state, dict) else state
    if type(found) is not int or found != version:
        raise StateError(
            f"{what}: the saved state has version {found!r}, and this pyvmm reads {version}; "
            "load it with the pyvmm that saved it"
        )
