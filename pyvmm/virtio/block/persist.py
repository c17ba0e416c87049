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


def check(name: str, state: dict[str, Any], path: str, sectors: int, saved_sectors: int) -> None:
    """Check the *state* of device *name* against its image at *path*, which has *sectors* of 512 bytes.

    *saved_sectors*: those it had when the state was saved. Raises StateError for another version, and when
    the two numbers differ.
    """
    check_version(name, state, VERSION)
    if saved_sectors != sectors:
        raise StateError(
            f"disk {path} has {sectors} sectors, and had {saved_sectors} when the guest was "
            "saved; give the image that belongs to it"
        )
