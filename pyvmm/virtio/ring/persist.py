"""What is saved of a queue: its set-up and its positions in the rings."""

from __future__ import annotations

from pyvmm.virtio.errors import StateError, check_numbers, check_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.virtio.ring.queue import Queue

VERSION = 1

#: Every key, and what its number is below.
LIMITS = {
    "size": 1 << 32,
    "ready": 2,
    "desc": 1 << 64,
    "driver": 1 << 64,
    "device": 1 << 64,
    "next_avail": 1 << 16,
    "next_used": 1 << 16,
}


def save(queue: Queue, pending: int = 0) -> dict[str, object]:
    """The state of *queue*, whose last *pending* chains in flight are to be taken again after a load."""
    return {
        "version": VERSION,
        "size": queue.size,
        "ready": queue.ready,
        "desc": queue.desc,
        "driver": queue.driver,
        "device": queue.device,
        "next_avail": (queue.position + queue.in_flight - pending) & 0xFFFF,
        "next_used": queue.position,
    }


def load(queue: Queue, state: dict[str, Any]) -> None:
    """Restore what ``save`` returned; ``Queue.activate`` follows when the device was active.

    Raises StateError for another major version, or for what no driver can have set up.
    """
    check_version(f"queue {queue.index}", state, VERSION)
    check_numbers(f"queue {queue.index}", state, LIMITS)
    flight = (state["next_avail"] - state["next_used"]) & 0xFFFF
    if state["ready"] and flight > min(state["size"], queue.max_size):
        raise StateError(
            f"queue {queue.index}: the saved state has {flight} chains in flight, and the queue has "
            f"{queue.max_size} entries; it is another device's"
        )
    queue.reset()
    queue.size, queue.ready = state["size"], bool(state["ready"])
    queue.desc, queue.driver, queue.device = state["desc"], state["driver"], state["device"]
    if queue.ready:
        queue.begin_at(state["next_used"], flight)
