"""What a character device (serial port, console) talks to on the host."""

from __future__ import annotations

from pyvmm.backends.host_objects import HostObject
from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop


class BackendError(StartError):
    """A backend cannot be opened on this host."""


class CharBackend(HostObject):
    """Bytes to and from the host, behind one character device. This one drops output and has no input.

    ``write``, ``offer`` and ``resume`` are called by any thread, the rest by the loop's thread. Callbacks
    (``receive``, ``space``, ``on_ready``, ``on_break``, ``on_quit``, ``on_connect``) are made from the loop's
    thread, with no lock of the backend held.
    """

    #: Whether input may come from the other end.
    gives_input = True

    def __init__(self) -> None:
        #: False while the output buffer is full; the device then withholds "transmitter empty".
        self.ready = True
        #: Called when ``ready`` has become True again.
        self.on_ready: Callable[[], object] | None = None
        #: Called when the user sends a break, which is not a byte (terminal: Ctrl-A b).
        self.on_break: Callable[[], object] | None = None
        #: Called when the user asks to end the guest by a key (terminal: Ctrl-A x).
        self.on_quit: Callable[[], object] | None = None
        #: Called when ``connected`` has changed.
        self.on_connect: Callable[[], object] | None = None
        #: Output bytes that were dropped: written with the buffer full, or with nothing connected.
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """Whether the other end is open; True where that cannot be known."""
        return True

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin: ``receive(data)`` gets input, never more than the ``space()`` bytes that fit now.

        When ``space()`` said 0, or ``receive`` returned False and took nothing, input waits for ``resume``.
        Opens first what was not opened. Called again for the next machine's device, when the guest has
        rebooted: the other end stays as it is, and input that was not taken is the next device's. Raises
        BackendError.
        """

    def write(self, data: bytes) -> None:
        """Send *data*. Never blocks and never raises; counts in ``dropped`` what finds no room."""

    def offer(self, views: Sequence[memoryview]) -> int:
        """Send what the other end takes now of *views* (of bytes, not empty); returns how many bytes that is.

        Never blocks, never raises, and keeps nothing: the rest stays the caller's, and ``on_ready`` is called
        when there is room for it. What is dropped because nothing is connected counts as sent.
        """
        if not self.ready:
            return 0
        data = b"".join(views)
        self.write(data)
        return len(data)

    def size(self) -> tuple[int, int] | None:
        """Columns and rows of the terminal at the other end; None when it is none."""
        return None

    def resume(self) -> None:
        """The device has room for input again."""

    def unread(self, data: bytes) -> None:
        """The guest ended before it read *data*, its last input: it is the next device's first.

        Before ``detach``. Loop's thread.
        """

    def describe(self) -> str:
        """What this is, for messages."""
        return "none"


class Detached(CharBackend):
    """No terminal of its own: output goes to whoever observes it, input comes from ``send``.

    Both may begin while the guest runs. It may be attached again, to the next machine's device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._observers: tuple[Callable[[bytes], object], ...] = ()
        self._device: tuple[Loop, Callable[[bytes], object], Callable[[], int]] | None = None
        self._input = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of input that the device has not taken yet."""
        return len(self._input)

    def observe(self, observer: Callable[[bytes], object]) -> None:
        """Call ``observer(data)`` for output, from a vCPU's thread: it must be quick. Loop's thread."""
        self._observers = (*self._observers, observer)

    def forget(self, observer: Callable[[bytes], object]) -> None:
        """Stop calling *observer*. Loop's thread."""
        self._observers = tuple(one for one in self._observers if one != observer)

    def send(self, data: bytes) -> None:
        """Input for the guest. Any thread, once there is a device."""
        if self._device is not None:
            self._device[0].call_soon(lambda: self._put(data))

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin."""
        self._input.clear()
        self._device = loop, receive, space

    def write(self, data: bytes) -> None:
        """Call the observers with *data*."""
        for observer in self._observers:
            observer(data)

    def resume(self) -> None:
        """The device has room for input again."""
        if self._device is not None and self._input:
            self._device[0].call_soon(lambda: self._put(b""))

    def _put(self, data: bytes) -> None:
        self._input += data
        assert self._device is not None
        _, receive, space = self._device
        # Until space() is 0: only after that does the device call resume() when it has room.
        while self._input and (room := space()) > 0:
            if receive(bytes(self._input[:room])) is False:
                break
            del self._input[:room]
