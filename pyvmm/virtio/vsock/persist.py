"""What is saved of a socket device: the next port of the host's end. Connections are not saved."""

from __future__ import annotations

from pyvmm.virtio.errors import check_version
from pyvmm.virtio.vsock.packet import FIRST_HOST_PORT, LAST_HOST_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1


def save(next_port: int) -> dict[str, Any]:
    """The state of a device as plain values; *next_port*: FIRST_HOST_PORT to LAST_HOST_PORT."""
    return {"version": VERSION, "next_port": next_port}


def load(name: str, state: dict[str, Any]) -> int:
    """The next port. Raises StateError for another major version, KeyError or ValueError for what is none."""
    check_version(name, state, VERSION)
    port = state["next_port"]
    if not isinstance(port, int) or not FIRST_HOST_PORT <= port <= LAST_HOST_PORT:
        raise ValueError(f"{port!r} is no port for the host's end of a connection")
    return port
