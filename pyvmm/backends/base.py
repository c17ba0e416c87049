"""What a character device (serial port, console) talks to on the host."""

from __future__ import annotations

import os

from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop


class BackendError(StartError):
    """A backend cannot be opened on this host."""


class CharBackend:
    """Bytes to and from the host, behind one character device. This one swallows and gives nothing.

    ``write``, ``offer`` and ``resume`` are called by any thread, the rest by the loop's thread. Callbacks
    (``receive``, ``space``, ``on_ready``, ``on_break``, ``on_connect``) are made from the loop's thread, with
    no lock of the backend held.
    """

    def __init__(self) -> None:
        #: False while the output buffer is full; the device then withholds "transmitter empty".
        self.ready = True
        #: Called when ``ready`` has become True again.
        self.on_ready: Callable[[], object] | None = None
        #: Called when the user sends a break, which is not a byte (terminal: Ctrl-A b).
        self.on_break: Callable[[], object] | None = None
        #: Called when ``connected`` has changed.
        self.on_connect: Callable[[], object] | None = None
        #: Output bytes nobody took: written with the buffer full, or with nobody connected.
        self.dropped = 0

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end; True where nobody can tell."""
        return True

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        """Begin: ``receive(data)`` gets input, never more than the ``space()`` bytes that fit now.

        When ``space()`` said 0, or ``receive`` returned False and took nothing, input waits for ``resume``.
        Raises BackendError.
        """

    def write(self, data: bytes) -> None:
        """Send *data*. Never blocks and never raises; counts in ``dropped`` what finds no room."""

    def offer(self, views: Sequence[memoryview]) -> int:
        """Send what the other end takes now of *views* (of bytes, not empty); returns how many bytes that is.

        Never blocks, never raises, and keeps nothing: the rest stays the caller's, and ``on_ready`` is called
        when there is room for it. What is dropped because nobody is there counts as taken.
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

    def describe(self) -> str:
        """What this is, in words for a message."""
        return "none"

    def close(self) -> None:
        """Let go of the host's objects. Idempotent."""


def warn(sentence: str) -> None:
    """Tell the user *sentence* on stderr; the line is whole also while the terminal is in raw mode."""
    try:
        os.write(2, f"pyvmm: {sentence}\r\n".encode() if os.isatty(2) else f"pyvmm: {sentence}\n".encode())
    except OSError:
        pass  # nobody to tell
