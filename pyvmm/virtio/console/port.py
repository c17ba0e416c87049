"""One port of a console device: a backend on the host, two queues of the guest. Section 5.3."""

from __future__ import annotations

from time import monotonic

from pyvmm.loop import TURN
from pyvmm.memory.views import cut
from pyvmm.virtio.errors import QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.base import CharBackend
    from pyvmm.board.timers import Cancellable
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue
    from pyvmm.virtio.runtime import Runtime

#: Bytes, and views of guest memory, that the backend is offered at once. Longer chains are offered in parts.
BATCH = 1 << 20
BATCH_VIEWS = 256
#: Chains of the receive queue that are taken ahead of input.
EMPTY = 16
#: Seconds by which an interrupt for transmitted chains is delayed. A driver that polls, as Linux's does for a
#: console, has collected them by then, and needs none.
MODERATION = 0.005
#: How often the delay is repeated because other chains were completed during it.
DELAYS = 4
#: Seconds without input after which the next input is preceded by the terminal's size.
SILENCE = 1.0


class Port:
    """A port between *backend* and two queues; ``attach`` connects it to its device.

    :param backend: the host's end; the device closes it unless it is ``kept``
    :param name: how the guest finds it (/dev/virtio-ports/NAME on Linux); empty for none
    :param console: a terminal of the guest's (/dev/hvcN on Linux), or a plain stream of bytes

    All methods but ``receive`` and ``space`` are called with the runtime's ``lock`` held.
    """

    def __init__(self, backend: CharBackend, name: str = "", console: bool = True) -> None:
        self.backend = backend
        self.name = name
        self.console = console
        self.number = 0
        #: Columns and rows of the terminal at the host's end; None when there is none.
        self.size: tuple[int, int] | None = None
        #: Gets a copy of what is sent, when it is set.
        self.tap: Callable[[bytes], object] | None = None
        self._runtime: Runtime
        self._tell_size: Callable[[Port], object]
        self._rx: Queue
        self._tx: Queue
        self._clear()

    def _clear(self) -> None:
        #: Whether the driver knows the port, and whether a program of the guest's has it open.
        self.known = False
        self.open = False
        self._sending: list[Chain] = []
        self._left: list[int] = []  # bytes of each that are not sent yet
        #: Bytes of the next chain to take that were sent before the state was saved.
        self.skip = 0
        self._empty: list[Chain] = []
        self._room = 0
        self._starved = False
        self._unpublished = 0  # chains completed and not published yet
        self._timer: Cancellable | None = None
        self._recent = False  # whether some were completed since the timer was set
        self._delays = 0
        self._last_input = float("-inf")

    def attach(
        self,
        runtime: Runtime,
        number: int,
        rx: Queue,
        tx: Queue,
        tell_size: Callable[[Port], object],
        connection_changed: Callable[[Port], object],
    ) -> None:
        """Be port *number* of *runtime*'s device, and attach the backend. Raises BackendError.

        :param tell_size: tells the driver the size of the terminal again
        :param connection_changed: called when somebody connects to the backend, or leaves
        """
        self._runtime, self.number, self._rx, self._tx = runtime, number, rx, tx
        self._tell_size = tell_size
        backend = self.backend
        backend.on_ready = lambda: runtime.run_queue(tx.index)
        backend.on_connect = lambda: connection_changed(self)
        backend.attach(runtime.loop, self.receive, self.space)
        self.size = backend.size()

    def reset(self) -> None:
        """As after the driver's reset."""
        self._clear()

    def set_open(self, is_open: bool) -> None:
        """A program of the guest's has opened or closed the port."""
        self.open = is_open
        if is_open:
            self.backend.resume()

    # Guest to host

    def transmit(self) -> None:
        """Send what the driver made available, until there is no more or the backend takes no more.

        What it does not take stays in the queue, and the guest's program waits.
        """
        queue, sending, backend = self._tx, self._sending, self.backend
        chains, end = queue.size, monotonic() + TURN
        queue.disable_notification()
        while True:
            views, size = self._gather()
            if not sending:
                if not queue.enable_notification():
                    break
                queue.disable_notification()
                continue
            if size:
                if not backend.ready:
                    break  # on_ready runs the queue again
                sent = backend.offer(views)
                if self.tap is not None and sent:
                    self.tap(b"".join(cut(views, sent)))
            else:
                sent = 0
            done = self._complete(sent)
            chains -= done
            if sent < size:
                break
            if chains <= 0 or monotonic() > end:
                self._runtime.kick(queue.index)
                break
        if self._unpublished:
            self._publish_soon()
        else:
            self._runtime.publish(queue)  # chains that broke a rule

    def _gather(self) -> tuple[list[memoryview], int]:
        """Views of what is to be sent next, and their bytes; chains are taken from the queue for it."""
        sending, left = self._sending, self._left
        views: list[memoryview] = []
        size = 0
        for chain in sending:
            views += chain.rest_readable()
        size = sum(left)
        while size < BATCH and len(views) < BATCH_VIEWS and (taken := self._tx.pop()) is not None:
            more = taken.readable_size
            if self.skip:
                skipped, self.skip = min(self.skip, more), 0
                taken.skip(skipped)
                more -= skipped
            sending.append(taken)
            left.append(more)
            views += taken.rest_readable()
            size += more
        if size > BATCH:
            views, size = cut(views, BATCH), BATCH
        return views, size

    def _complete(self, sent: int) -> int:
        """Complete the chains of which *sent* more bytes send the rest; returns how many."""
        sending, left = self._sending, self._left
        done = 0
        while done < len(sending) and left[done] <= sent:
            sent -= left[done]
            self._tx.push(sending[done], 0)
            done += 1
        del sending[:done], left[:done]
        if sent:
            sending[0].skip(sent)
            left[0] -= sent
        self._unpublished += done
        return done

    def _publish_soon(self) -> None:
        """Make completed chains visible to the driver at once, and interrupt it after a while."""
        if 2 * self._unpublished >= self._tx.size:
            self._interrupt()
            return
        self._tx.publish_index()
        if self._timer is not None and self._timer.active:
            self._recent = True
        else:
            self._delays = DELAYS
            self._delay()

    def _delay(self) -> None:
        self._recent = False
        self._delays -= 1
        self._timer = self._runtime.later(MODERATION, self._due)

    def _due(self) -> None:
        if self._recent and self._delays and self._tx.interrupt_due:
            self._delay()  # a driver that polls may not have had time to see the last chain
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        self._unpublished = 0
        self._runtime.publish(self._tx)

    # Host to guest

    def space(self) -> int:
        """Bytes of input that fit now. The backend asks; 0 makes it wait for ``resume``."""
        runtime = self._runtime
        with runtime.lock:
            if not runtime.active or runtime.held or not self.open:
                return 0
            try:
                return self._room or self._find_room()
            except QueueError as error:
                runtime.halt(error)
                return 0

    def receive(self, data: bytes) -> bool:
        """Input from the backend, at most what ``space`` returned; False when the backend is to keep it."""
        runtime = self._runtime
        with runtime.lock:
            if runtime.held or not runtime.active:
                return False  # saved or reset since ``space`` was called
            if self.size is not None:
                now = runtime.timers.clock()
                if now - self._last_input > SILENCE:
                    # A program that opened the terminal after the size was told last has not seen it.
                    self._tell_size(self)
                self._last_input = now
            rx, empty, at = self._rx, self._empty, 0
            view = memoryview(data)
            while at < len(data) and empty:
                chain = empty.pop(0)
                self._room -= chain.writable_size
                at += chain.write(view[at:])
                rx.push(chain, chain.written)
            runtime.publish(rx)
            return True

    def room_added(self) -> None:
        """The driver put buffers into the receive queue."""
        self._rx.disable_notification()
        if self._starved:
            self._starved = False
            self.backend.resume()

    def _find_room(self) -> int:
        rx, empty = self._rx, self._empty
        while True:
            while len(empty) < EMPTY and (chain := rx.pop_with_room(1)) is not None:
                empty.append(chain)
                self._room += chain.writable_size
            self._runtime.publish(rx)  # chains that were refused
            if self._room or not rx.enable_notification():
                self._starved = not self._room
                return self._room

    # State

    @property
    def sent(self) -> int:
        """Bytes of the first chain that is not completed which the backend has taken."""
        return self._sending[0].readable_size - self._left[0] if self._sending else self.skip
