"""Observers: they see what passes between a device and its driver, and may disturb it.

They are given to ``Runtime.attach``. A device with observers has queues and registers of classes that call
them; a device without any pays nothing.
"""

from __future__ import annotations

from functools import partial

from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.ring.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.memory.guest import GuestMemory

USED, CONFIGURATION, NEEDS_RESET = "used buffers", "configuration change", "needs reset"


def bytes_of(views: list[memoryview], limit: int) -> bytes:
    """The first *limit* bytes of *views*, copied."""
    parts = []
    for view in views:
        if limit <= 0:
            break
        parts.append(bytes(view[:limit]))
        limit -= len(parts[-1])
    return b"".join(parts)


class Observer:
    """What to do at each event: a subclass overrides what it wants. Any thread.

    The first observer of a device is the nearest to it: it sees first what the device does.
    """

    #: Whether it wants ``read``, ``wrote`` and ``interrupted``: every register access is an exit then.
    registers = True

    def started(self) -> None:
        """The driver set DRIVER_OK."""

    def stopped(self) -> None:
        """The driver reset the device, or the machine is over."""

    def closed(self) -> None:
        """The machine is over. Idempotent."""

    def read(self, offset: int, size: int, value: int) -> None:
        """The driver read *value* from the registers; the configuration space begins at ``mmio.CONFIG``."""

    def wrote(self, offset: int, size: int, value: int) -> None:
        """The driver is about to write *value* to the registers."""

    def kicked(self, queue: int) -> None:
        """The device is about to process *queue* for a notification."""

    def popped(self, queue: int, chain: Chain) -> None:
        """The device took *chain*; nothing of it is written yet."""

    def pushed(self, queue: int, chain: Chain, written: int) -> None:
        """The device completes *chain*. Its views are empty when it was refused as broken."""

    def interrupted(self, cause: str) -> None:
        """The driver is interrupted for *cause*."""

    # Disturbing

    def drops(self, queue: int) -> bool:
        """Whether the driver's notification of *queue* is to be lost."""
        return False

    def alter(self, queue: Queue, chain: Chain, written: int) -> tuple[Chain, int, float]:
        """The chain and the length that the driver is to be told, and after how many seconds."""
        return chain, written, 0.0


class ObservedQueue(Queue):
    """A queue that tells *observers*; *max_size* is the largest number of entries.

    :param defer: called with the queue, a delay in seconds and a function that pushes: carries the function
        out after the delay, and publishes
    :param run_again: as any queue's
    """

    __slots__ = ("_defer", "_observers", "_taken")

    def __init__(
        self,
        index: int,
        max_size: int,
        observers: Sequence[Observer],
        defer: Callable[[Queue, float, Callable[[], object]], object],
        run_again: Callable[[int], object],
    ) -> None:
        self._observers = observers
        self._defer = defer
        # Chains that the device has, by their heads: it may complete them by their heads alone.
        self._taken: dict[int, Chain] = {}
        super().__init__(index, max_size, run_again=run_again)

    def reset(self) -> None:
        """As any queue."""
        self._taken.clear()
        super().reset()

    def activate(self, memory: GuestMemory, features: int) -> None:
        """As any queue."""
        super().activate(memory, features)
        self._main = (0, 0, None)  # so that every chain comes by ``pop``, also those of ``pop_writable``

    def pop(self) -> Chain | None:
        """As any queue."""
        chain = super().pop()
        if chain is not None:
            self._taken[chain.head] = chain
            for observer in reversed(self._observers):
                observer.popped(self.index, chain)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """As any queue, as far as the observers let it."""
        self._pass_on(0, self._taken.pop(chain.head, chain), written)

    def push_head(self, head: int, written: int) -> None:
        """As any queue, as far as the observers let it."""
        self.push(self._taken.get(head) or Chain(head, [], []), written)

    def push_filled(self, heads: list[int], sizes: list[int], written: int) -> int:
        """As any queue, as far as the observers let it."""
        count = 0
        while True:
            part = min(written, sizes[count])
            self.push_head(heads[count], part)
            count += 1
            written -= part
            if not written:
                return count

    def _pass_on(self, first: int, chain: Chain, written: int) -> None:
        """*chain* has passed the observers before number *first*."""
        for number in range(first, len(self._observers)):
            observer = self._observers[number]
            observer.pushed(self.index, chain, written)
            chain, written, delay = observer.alter(self, chain, written)
            if delay:
                self._defer(self, delay, partial(self._pass_on, number + 1, chain, written))
                return
        super().push(chain, written)
