"""What a device may do with the chains of its queues, checked while it does it.

Every way a chain leaves the available ring and every way it gets into the used ring is watched: a chain is
completed once, by the queue it came from, with no more bytes than it has room for, and what is in flight is
what was taken and not completed. The used ring in memory proves nothing: the guest may write to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.queue import Queue


class Oracle:
    """Watches all queues; *chains*: how many were completed."""

    def __init__(self) -> None:
        self.chains = 0
        #: By queue and head, the room of each chain the device has. A hostile driver may offer a head twice.
        self._taken: dict[Queue, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        #: Within a method that takes chains, which completes those that break a rule by itself.
        self._taking = 0
        #: What ``pop`` returned last.
        self._last: tuple[Queue, Chain]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the queues of one program; it begins with none in flight."""
        self._taken.clear()
        with (
            self._wrapped("reset", self._reset),
            self._wrapped("pop", self._pop),
            self._wrapped("unpop", self._unpop),
            self._wrapped("pop_writable", self._pop_writable),
            self._wrapped("push", self._push),
            self._wrapped("push_head", self._push_head),
            self._wrapped("push_filled", self._push_filled),
        ):
            yield

    def check(self, queue: Queue) -> None:
        """That *queue* counts what is in flight."""
        taken = sum(len(rooms) for rooms in self._taken[queue].values())
        assert queue.in_flight == taken, f"{queue.in_flight} chains in flight, of {taken} taken"

    def _wrapped(self, name: str, watch: Callable[..., Any]) -> Any:
        """*name* of all queues, through *watch*, which gets the method itself first."""
        method = getattr(Queue, name)

        def watched(queue: Queue, *arguments: Any) -> Any:
            return watch(lambda *others: method(queue, *others), queue, *arguments)

        return patch.object(Queue, name, watched)

    def _reset(self, method: Callable[[], None], queue: Queue) -> None:
        self._taken.pop(queue, None)
        method()

    def _pop(self, method: Callable[[], Chain | None], queue: Queue) -> Chain | None:
        self._taking += 1
        try:
            chain = method()
        finally:
            self._taking -= 1
        if chain is not None and not self._taking:
            self._take(queue, chain.head, chain.writable_size)
            self._last = queue, chain
        return chain

    def _unpop(self, method: Callable[[], None], queue: Queue) -> None:
        last, chain = self._last
        assert last is queue, "only what was popped last can be put back"
        self._taken[queue][chain.head].remove(chain.writable_size)
        method()

    def _pop_writable(
        self,
        method: Callable[..., int],
        queue: Queue,
        want: int,
        heads: list[int],
        sizes: list[int],
        views: list[memoryview],
    ) -> int:
        before, room = len(heads), sum(view.nbytes for view in views)
        self._taking += 1
        try:
            got = method(want, heads, sizes, views)
        finally:
            self._taking -= 1
            assert len(heads) == len(sizes)
            for head, size in zip(heads[before:], sizes[before:], strict=True):
                self._take(queue, head, size)
        assert got == sum(sizes[before:]) == sum(view.nbytes for view in views) - room
        return got

    def _push(self, method: Callable[..., None], queue: Queue, chain: Chain, written: int) -> None:
        assert written <= chain.writable_size, f"{written} bytes written of {chain.writable_size}"
        self._complete(queue, chain.head, written)
        method(chain, written)

    def _push_head(self, method: Callable[..., None], queue: Queue, head: int, written: int) -> None:
        if self._taking:  # refused before the device saw it
            assert written == 0 and 0 <= head < queue.size
            self.chains += 1
        else:
            self._complete(queue, head, written)
        method(head, written)

    def _push_filled(
        self, method: Callable[..., int], queue: Queue, heads: list[int], sizes: list[int], written: int
    ) -> int:
        assert 0 < written <= sum(sizes)
        count = method(heads, sizes, written)
        for head, size in zip(heads[:count], sizes[:count], strict=True):
            assert written > 0, "a chain was completed that got no byte"
            self._complete(queue, head, min(size, written))
            written -= size
        assert written <= 0, f"{written} bytes have no chain"
        return count

    def _take(self, queue: Queue, head: int, room: int) -> None:
        assert 0 <= head < queue.size
        self._taken[queue][head].append(room)

    def _complete(self, queue: Queue, head: int, written: int) -> None:
        rooms = self._taken[queue][head]
        assert rooms, f"queue {queue.index}: chain {head} is completed, and the device does not have it"
        fitting = [room for room in rooms if room >= written >= 0]
        assert fitting, f"{written} bytes written of {max(rooms)}"
        rooms.remove(min(fitting))
        self.chains += 1
