"""One port of a console device: a backend on the host, two queues of the guest. Section 5.3."""

from __future__ import annotations

from pyvmm.memory.views import cut
from pyvmm.virtio.errors import QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.base import CharBackend
    from pyvmm.loop import Timer
    from pyvmm.virtio.console.device import VirtioConsole
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

#: Bytes, and views of guest memory, that the backend is given at once; a chain more than that is cut.
BATCH = 1 << 20
BATCH_VIEWS = 256
#: Bytes sent before the other devices of the loop have their turn.
TURN = 4 << 20
#: Chains of the receive queue that wait, empty, for input.
EMPTY = 16
#: Seconds that an interrupt for bytes sent may wait. A driver that polls, as Linux's does for a console,
#: has taken its buffers back by then, and needs none.
MODERATION = 0.005
#: How often it waits once more because meanwhile others were given back.
DELAYS = 4
#: Seconds without input after which the next input is preceded by the terminal's size.
SILENCE = 1.0


class Port:
    """What is sent to *backend* and received from it; ``attach`` joins it to its device.

    :param backend: the host's end; the device closes it
    :param name: how the guest finds it (/dev/virtio-ports/NAME on Linux); empty for none
    :param console: a terminal of the guest's (/dev/hvcN on Linux), or a plain stream of bytes

    All methods but ``receive`` and ``space`` are called with the device's ``busy`` held.
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
        self._device: VirtioConsole
        self._rx: Queue
        self._tx: Queue
        self._clear()

    def _clear(self) -> None:
        #: Whether the driver knows the port, and whether a program of the guest's has it open.
        self.known = False
        self.open = False
        self._sending: list[Chain] = []
        self._left: list[int] = []  # bytes of each that are not sent yet
        self._skip = 0  # bytes of the first chain to come that were sent before the state was saved
        self._empty: list[Chain] = []
        self._room = 0
        self._starved = False
        self._quiet = 0  # chains given back without an interrupt
        self._timer: Timer | None = None
        self._recent = False  # some since the timer was set
        self._delays = 0
        self._last_input = float("-inf")

    def attach(self, device: VirtioConsole, number: int, rx: Queue, tx: Queue) -> None:
        """Be port *number* of *device*, and open the backend. Raises BackendError."""
        self._device, self.number, self._rx, self._tx = device, number, rx, tx
        backend = self.backend
        backend.on_ready = lambda: device.run_queue(tx.index)
        backend.on_connect = lambda: device.connection_changed(self)
        backend.attach(device.loop, self.receive, self.space)
        self.size = backend.size()

    def reset(self) -> None:
        """The driver is gone."""
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
        chains, budget = queue.size, TURN
        queue.disarm()
        while True:
            views, size = self._gather()
            if not sending:
                if not queue.arm():
                    break
                queue.disarm()
                continue
            if size:
                if not backend.ready:
                    break  # on_ready comes
                sent = backend.offer(views)
                if self.tap is not None and sent:
                    self.tap(b"".join(cut(views, sent)))
                budget -= sent
            else:
                sent = 0
            done = self._give_back(sent)
            chains -= done
            if sent < size:
                break
            if budget <= 0 or chains <= 0:
                self._device.kick(queue.index)
                break
        if self._quiet:
            self._show()
        else:
            self._device.publish(queue)  # chains that broke a rule

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
            if self._skip:
                skipped, self._skip = min(self._skip, more), 0
                taken.skip(skipped)
                more -= skipped
            sending.append(taken)
            left.append(more)
            views += taken.rest_readable()
            size += more
        if size > BATCH:
            views, size = cut(views, BATCH), BATCH
        return views, size

    def _give_back(self, sent: int) -> int:
        """Give back the chains that *sent* more bytes complete; returns how many."""
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
        self._quiet += done
        return done

    def _show(self) -> None:
        """Let the driver see what was given back: at once; its interrupt may come later."""
        if 2 * self._quiet >= self._tx.size:
            self._interrupt()
            return
        self._tx.expose()
        if self._timer is not None and self._timer.active:
            self._recent = True
        else:
            self._delays = DELAYS
            self._delay()

    def _delay(self) -> None:
        self._recent = False
        self._delays -= 1
        self._timer = self._device.later(MODERATION, self._due)

    def _due(self) -> None:
        if self._recent and self._delays and self._tx.overdue:
            self._delay()  # a driver that polls may not have had time to see the last one
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        self._quiet = 0
        self._device.publish(self._tx)

    # Host to guest

    def space(self) -> int:
        """Bytes of input that fit now. The backend asks; 0 makes it wait for ``resume``."""
        device = self._device
        with device.busy:
            if not device.active or device.held or not self.open:
                return 0
            try:
                return self._room or self._find_room()
            except QueueError as error:
                device.broken(error)
                return 0

    def receive(self, data: bytes) -> bool:
        """Input from the backend, no more than ``space`` said; False when it is to wait after all."""
        device = self._device
        with device.busy:
            if device.held:
                return False  # saved meanwhile
            if not device.active:
                return True  # reset meanwhile: as typed into a machine that restarts
            if self.size is not None:
                now = device.loop.clock()
                if now - self._last_input > SILENCE:
                    device.tell_size(
                        self
                    )  # a terminal of the guest's has it only from then on that it is open
                self._last_input = now
            rx, empty, at = self._rx, self._empty, 0
            view = memoryview(data)
            while at < len(data) and empty:
                chain = empty.pop(0)
                self._room -= chain.writable_size
                at += chain.write(view[at:])
                rx.push(chain, chain.written)
            device.publish(rx)
            return True

    def room_added(self) -> None:
        """The driver put buffers into the receive queue."""
        self._rx.disarm()
        if self._starved:
            self._starved = False
            self.backend.resume()

    def _find_room(self) -> int:
        rx, empty = self._rx, self._empty
        worthless = 0
        while True:
            while len(empty) < EMPTY and (chain := rx.pop()) is not None:
                size = chain.writable_size
                if size:
                    empty.append(chain)
                    self._room += size
                else:
                    rx.push(chain, 0)
                    worthless += 1
            if worthless:
                self._device.publish(rx)
            if self._room or worthless > rx.size or not rx.arm():
                self._starved = not self._room
                return self._room

    # State

    def save(self) -> dict[str, object]:
        """What the driver knows, and how far the first chain was sent."""
        sent = self._sending[0].readable_size - self._left[0] if self._sending else self._skip
        return {"known": self.known, "open": self.open, "sent": sent}

    def load(self, state: dict[str, object]) -> None:
        """Take back what ``save`` gave."""
        self.known, self.open, self._skip = bool(state["known"]), bool(state["open"]), int(str(state["sent"]))
