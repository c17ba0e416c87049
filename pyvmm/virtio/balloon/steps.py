"""Requests that take long, carried out in short steps: between two turns of them, others have the loop."""

from __future__ import annotations

from collections import deque
from time import monotonic

from pyvmm.loop import TURN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.runtime import Runtime


class StepwiseRequests:
    """Deferred requests of *runtime*'s device, in order. With the runtime's ``lock`` held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._requests: deque[tuple[int, Chain, Iterator[None]]] = deque()
        self._scheduled = False

    def add(self, queue: int, chain: Chain, steps: Iterator[None]) -> None:
        """Carry out *steps*, each of them short, then complete *chain* of queue number *queue*."""
        self._requests.append((queue, chain, steps))

    def count(self, queue: int) -> int:
        """The requests of queue number *queue* that are not complete."""
        return sum(index == queue for index, _, _ in self._requests)

    def clear(self) -> None:
        """The device stopped."""
        self._requests.clear()
        self._scheduled = False

    def go_on(self) -> None:
        """Carry out what there is, unless a later turn of the loop is to do that already."""
        if not self._scheduled:
            self._turn()

    def _turn(self) -> None:
        runtime, requests, end = self._runtime, self._requests, monotonic() + TURN
        touched = set()
        self._scheduled = False
        while requests and not runtime.stopping:
            if monotonic() > end:
                self._scheduled = True
                runtime.soon(self._turn)
                break
            index, chain, steps = requests[0]
            if next(steps, chain) is chain:  # there are no more
                requests.popleft()
                queue = runtime.queues[index]
                queue.push(chain, chain.written)
                touched.add(queue)
        for queue in touched:
            runtime.publish(queue)
