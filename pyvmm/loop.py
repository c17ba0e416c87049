"""The event loop of one VM: file descriptors through epoll, timers, calls from other threads.

One thread runs it; every other method may be called from any thread. ``remove`` does not wait for a
callback that the loop's thread is running: a caller in another thread needs a lock of its own for that.
"""

from __future__ import annotations

import os
import select
import time
from _heapq import heapify, heappop, heappush
from _thread import allocate_lock, get_ident, start_new_thread

from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
#: With READ: edge-triggered, called once for each event (EPOLLET).
EDGE = select.EPOLLET
# Always reported (epoll_ctl(2)).
ERROR = select.EPOLLERR
HANGUP = select.EPOLLHUP

#: Seconds that one source of work should have of a turn: what a guest, a peer or a stream feeds looks at the
#: clock, and leaves the rest to the next turn.
TURN = 0.002

#: Bytes of address space that a new thread needs, beside its stack, for what it calls first, and more.
_THREAD_ROOM = 4 << 20
_EPERM = 1
# Cancelled timers stay in the heap until they are due; when there are more than this, they are removed.
_SWEEP = 64


class Timer:
    """A function that is called once, at a certain time; made by ``Loop.call_later``."""

    __slots__ = ("_function", "_loop", "cancelled", "when")

    def __init__(self, loop: Loop, when: float, function: Callable[[], object]) -> None:
        self._loop = loop
        self._function: Callable[[], object] | None = function
        #: The time it is due, in seconds of the loop's clock.
        self.when = when
        #: Whether ``cancel`` was called.
        self.cancelled = False

    @property
    def active(self) -> bool:
        """True until it has fired or was cancelled."""
        return self._function is not None

    def cancel(self) -> None:
        """Do not make the call. No effect when it was made already. Any thread."""
        self.cancelled = True
        if self._take() is not None:
            self._loop._cancelled_one()

    def _take(self) -> Callable[[], object] | None:
        function, self._function = self._function, None
        return function


class Loop:
    """Waits for file descriptors and timers, and calls their callbacks.

    *clock* returns monotonic seconds.

    A file descriptor epoll refuses (a regular file or /dev/null: both are always ready)
    is called once in every turn while it asks for READ or WRITE. Its callback therefore
    removes it as soon as it has nothing to do.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: Gets what a callback raised; without it, ``run`` raises it to its caller.
        self.on_error: Callable[[BaseException], object] | None = None
        self.clock = clock
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._always: dict[int, int] = {}
        # Added since this turn's events were fetched: an event of one of these was of another file,
        # closed meanwhile, that had the number before.
        self._added: set[int] = set()
        self._soon: list[Callable[[], object]] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._cancelled = 0
        self._stopping = False
        self._thread = 0
        self._closed = False
        self._lock = allocate_lock()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, READ)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inside(self) -> bool:
        """Whether the caller is the thread that turned the loop last."""
        return self._thread == get_ident()

    def add(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call ``callback(events)`` when *fd* is ready; *events* is READ, WRITE or both.

        The callback also gets ERROR and HANGUP. Level-triggered: it is called again until
        the cause is gone. The caller keeps *fd* and removes it before closing it.
        Raises OSError (EEXIST) for an fd that was added already, EBADF for one not open.
        """
        # Stored first: an event may come before epoll_ctl returns.
        before = self._callbacks.get(fd)
        self._callbacks[fd] = callback
        self._added.add(fd)
        try:
            self._register(fd, events)
        except BaseException:
            if before is None:
                del self._callbacks[fd]
            else:
                self._callbacks[fd] = before
            raise

    def _register(self, fd: int, events: int) -> None:
        try:
            self._epoll.register(fd, events)
        except PermissionError as error:
            if error.errno != _EPERM:
                raise
            if fd in self._always:
                raise FileExistsError(17, "file descriptor is in the loop already") from None
            with self._lock:
                self._always[fd] = events
                self._wake_up()

    def modify(self, fd: int, events: int) -> None:
        """Wait for other *events* of *fd*. With 0, ERROR and HANGUP still come.

        Raises OSError (ENOENT) for an fd that is not in the loop.
        """
        with self._lock:
            if fd in self._always:
                self._always[fd] = events
                if events:
                    self._wake_up()
                return
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget *fd*; nothing happens when it is not there."""
        if self._callbacks.pop(fd, None) is None:
            return
        with self._lock:
            always = self._always.pop(fd, None)
        if always is None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed already, which removed it from the epoll set

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop's thread, in its next turn. Any thread; no effect once closed."""
        with self._lock:
            if self._closed:
                return
            self._soon.append(function)
            if len(self._soon) == 1:
                self._wake_up()

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        """Call *function* in the loop's thread, *seconds* (>= 0) from now. Any thread."""
        timer = Timer(self, self.clock() + seconds, function)
        with self._lock:
            self._sequence += 1
            heappush(self._timers, (timer.when, self._sequence, timer))
            if self._timers[0][2] is timer and not self._closed:
                self._wake_up()
        return timer

    def run(self) -> None:
        """Turn until ``stop``; a ``stop`` before the call counts.

        Raises what a callback raised when there is no ``on_error``; it may be called again then.
        """
        while not self._stopping:
            self.run_once()
        self._stopping = False

    def run_once(self, timeout: float | None = None) -> int:
        """One turn: wait at most *timeout* seconds (None: no limit) for an event, and call its callbacks.

        Returns how many callbacks were called. Raises as ``run`` does.
        """
        self._thread = get_ident()
        with self._lock:
            if self._soon or self._stopping or any(self._always.values()):
                timeout = 0.0
            elif self._timers:
                due = max(0.0, self._timers[0][0] - self.clock())
                timeout = due if timeout is None else min(timeout, due)
        # Python rounds up to whole milliseconds here, so that a timer is due when this returns.
        ready = self._epoll.poll(timeout)
        self._added.clear()
        called = 0
        for fd, events in ready:
            if fd == self._wake:
                os.eventfd_read(self._wake)
                continue
            # An earlier callback of this turn may have removed it.
            callback = self._callbacks.get(fd)
            if callback is not None and fd not in self._added:
                called += 1
                self._call(callback, events)
        for fd, events in list(self._always.items()) if self._always else ():
            callback = self._callbacks.get(fd)
            if events and callback is not None and fd in self._always:
                called += 1
                self._call(callback, events)
        if self._timers:
            called += self._run_timers()
        if self._soon:
            called += self._run_soon()
        return called

    def stop(self) -> None:
        """End ``run`` after its current turn. Any thread."""
        self._stopping = True
        with self._lock:
            if not self._closed:
                self._wake_up()

    def close(self) -> None:
        """Close the loop's own file descriptors; those that were added stay open. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._soon.clear()
            self._timers.clear()
        self._callbacks.clear()
        self._always.clear()
        self._epoll.close()
        os.close(self._wake)

    def _wake_up(self) -> None:
        if self._thread not in (0, get_ident()):  # 0: a loop that was never run
            os.eventfd_write(self._wake, 1)

    def _run_timers(self) -> int:
        # Timers made by this turn's timers run in the next turn, so that descriptors are not starved.
        now, last = self.clock(), self._sequence
        due = []
        with self._lock:
            while self._timers and self._timers[0][0] <= now and self._timers[0][1] <= last:
                timer = heappop(self._timers)[2]
                due.append(timer)
                if not timer.active:
                    self._cancelled -= 1
        called = 0
        for timer in due:
            function = timer._take()
            if function is not None:
                called += 1
                self._call(function)
        return called

    def _run_soon(self) -> int:
        with self._lock:
            batch, self._soon = self._soon, []
        called = 0
        try:
            for function in batch:
                called += 1
                self._call(function)
        finally:
            if called < len(batch):  # a callback raised: the remaining ones run in the next turn
                with self._lock:
                    self._soon[:0] = batch[called:]
        return called

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)

    def _cancelled_one(self) -> None:
        with self._lock:
            self._cancelled += 1
            if self._cancelled > _SWEEP and self._cancelled * 2 > len(self._timers):
                self._timers = [entry for entry in self._timers if entry[2].active]
                heapify(self._timers)
                self._cancelled = 0


def thread_room() -> mmap:
    """What a thread is started in: ``with thread_room(): start_new_thread(...)``.

    It finds as much memory when it begins. A thread that finds none ends before its function is called, and
    nobody is told. Raises RuntimeError, as ``start_new_thread`` does, when this process gets no more memory.
    """
    from mmap import MAP_PRIVATE, PROT_READ, mmap

    try:
        return mmap(-1, _THREAD_ROOM, flags=MAP_PRIVATE, prot=PROT_READ)
    except OSError as error:
        raise RuntimeError(f"no memory for a thread: {error.strerror}") from None


def no_thread(name: str) -> StartError:
    """What to raise where the host refuses a thread for *name*."""
    return StartError(
        f"this host gives no thread to {name}; raise the limit of processes (ulimit -u), "
        "or that of memory (ulimit -v)"
    )


class LoopThread:
    """A loop that runs in a thread of its own until ``close``.

    What a callback raises ends the thread and is raised by ``close``, unless ``loop.on_error`` takes it.
    Raises StartError when the host refuses another thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = Loop()
        self._error: BaseException | None = None
        self._running = allocate_lock()
        self._running.acquire()
        try:
            with thread_room():
                start_new_thread(self._turn, ())
        except RuntimeError:
            self.loop.close()
            raise no_thread(name) from None

    def close(self) -> None:
        """Stop the loop and wait for its thread, then close it. Idempotent; not from that thread."""
        self.loop.stop()
        with self._running:
            pass
        self.loop.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _turn(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self._error = error
        finally:
            self._running.release()
