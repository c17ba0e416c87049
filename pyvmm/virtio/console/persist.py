"""What is saved of a console device: what the driver knows of each port, and the control messages for it."""

from __future__ import annotations

from pyvmm.virtio.errors import check_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyvmm.virtio.console.port import Port

VERSION = 1

#: Control messages that are due, by port number and event.
Messages = dict[tuple[int, int], bytes]


def save(ports: Sequence[Port], messages: Mapping[tuple[int, int], bytes]) -> dict[str, Any]:
    """The state of a device with these parts, as plain values."""
    return {
        "version": VERSION,
        "ports": [{"known": port.known, "open": port.open, "sent": port.sent} for port in ports],
        "messages": [[*key, message.hex()] for key, message in messages.items()],
    }


def load(name: str, ports: Sequence[Port], state: dict[str, Any]) -> Messages:
    """Restore *ports*; returns the messages.

    Raises StateError for another major version; KeyError, TypeError or ValueError for what does not fit.
    """
    check_version(name, state, VERSION)
    for port, saved in zip(ports, state["ports"], strict=True):
        port.known, port.open, port.skip = bool(saved["known"]), bool(saved["open"]), int(saved["sent"])
    return {(number, event): bytes.fromhex(text) for number, event, text in state["messages"]}
