"""The one run of a machine's event loop: in the caller's thread, or in one of its own."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread

from pyvmm.loop import no_thread, thread_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop


class LoopRun:
    """Runs *loop* once, until ``loop.stop``.

    :param failed: gets what a callback of the loop raised, which ends the run; in the loop's thread
    """

    __slots__ = ("_failed", "_loop", "_running")

    def __init__(self, loop: Loop, failed: Callable[[BaseException], object]) -> None:
        self._loop = loop
        self._failed = failed
        self._running = allocate_lock()

    def run(self) -> None:
        """Run the loop in this thread; returns at its end."""
        self._running.acquire()
        self._turn()

    def start(self) -> None:
        """Run the loop in a thread of its own. Raises StartError when the host has no thread to give."""
        self._running.acquire()
        try:
            with thread_room():
                start_new_thread(self._turn, ())
        except RuntimeError:
            self._running.release()
            raise no_thread("the event loop") from None

    def wait(self) -> None:
        """Return when the run is over, at once when there was none. Not from the loop's thread."""
        with self._running:
            pass

    def _turn(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:  # an exception must not be lost with the thread
            self._failed(error)
        finally:
            self._running.release()
