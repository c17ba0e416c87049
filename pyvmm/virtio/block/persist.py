"""What is saved of a block device beside its configuration space: nothing.

The capacity and the driver's choice of write caching are in the configuration space; the image stays where it
is.
"""

from __future__ import annotations

from pyvmm.virtio.errors import StateError, check_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1


def save() -> dict[str, Any]:
    """The state of a device as plain values."""
    return {"version": VERSION}


def check(
    name: str,
    state: dict[str, Any],
    path: str,
    disk: tuple[int, int],
    saved: tuple[int, int],
) -> None:
    """Check the *state* of device *name* against its image at *path*.

    *disk*: sectors of 512 bytes and bytes of a block that it has, *saved*: those it had when the state was
    saved. Raises StateError for another version, and when the two differ.
    """
    check_version(name, state, VERSION)
    if saved[0] != disk[0]:
        raise StateError(
            f"disk {path} has {disk[0]} sectors, and had {saved[0]} when the guest was "
            "saved; give the image that belongs to it"
        )
    if saved[1] != disk[1]:
        raise StateError(
            f"disk {path} has blocks of {disk[1]} bytes, and had blocks of {saved[1]} when the guest was "
            f"saved; give it with block-size={saved[1]}"
        )
