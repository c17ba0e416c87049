"""The time of a machine: it stands still while the machine is paused.

Devices' timers (watchdogs, alarms, receive timeouts) and the machine's own time limits use it.
"""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.loop import Loop, Timer


class MachineTimer:
    """A call that ``MachineClock.call_later`` will make once, at *when* seconds of the clock."""

    __slots__ = ("_clock", "_function", "_timer", "cancelled", "when")

    def __init__(self, clock: MachineClock, when: float, function: Callable[[], object]) -> None:
        self._clock = clock
        self._function: Callable[[], object] | None = function
        self._timer: Timer | None = None  # the loop's, while the clock runs
        #: The time it is due, in seconds of the machine's clock.
        self.when = when
        #: Whether ``cancel`` was called.
        self.cancelled = False

    @property
    def active(self) -> bool:
        """True until it has fired or was cancelled."""
        return self._function is not None

    def cancel(self) -> None:
        """Never make the call; no effect when it was made already. Any thread."""
        self.cancelled = True
        self._clock._cancel(self)

    def _fire(self) -> None:
        self._clock._fire(self)


class MachineClock:
    """Seconds of the loop's clock, less those that the clock was stopped, and calls at a time of it.

    Any thread may call any method. Functions are called in the loop's thread; ``for_loop`` gives a clock that
    calls them in another's.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lock = allocate_lock()  # the fields below; never held while a function is called
        self._timers: dict[MachineTimer, None] = {}
        self._lost = 0.0  # seconds the clock stood still, all together
        self._stopped: float | None = None  # the time it stopped at
        self._closed = False
        self._calling = allocate_lock()  # held while a function is called
        self._others: list[MachineClock] = []  # made by ``for_loop``

    @property
    def stopped(self) -> bool:
        """Whether it stands still."""
        with self._lock:
            return self._stopped is not None

    def clock(self) -> float:
        """The machine's time in seconds; it never goes back. Its zero is arbitrary."""
        with self._lock:
            return self._now()

    def call_later(self, seconds: float, function: Callable[[], object]) -> MachineTimer:
        """Call *function* when the machine has run for *seconds* (>= 0) from now; never once closed."""
        with self._lock:
            timer = MachineTimer(self, self._now() + seconds, function)
            if not self._closed:
                self._timers[timer] = None
                if self._stopped is None:
                    timer._timer = self._loop.call_later(seconds, timer._fire)
            return timer

    def for_loop(self, loop: Loop) -> MachineClock:
        """A clock that is stopped, started and closed with this one, whose functions *loop*'s thread calls.

        Its zero is another. For this clock's own loop it is this one. Before the first ``stop``.
        """
        if loop is self._loop:
            return self
        clock = MachineClock(loop)
        self._others.append(clock)
        return clock

    def stop(self) -> None:
        """Let the time stand still until ``start``: no function begins to be called meanwhile. Idempotent."""
        with self._lock:
            if self._stopped is None:
                self._stopped = self._now()
                self._suspend()
        for clock in self._others:
            clock.stop()

    def settle(self) -> None:
        """Wait until the functions that are being called have returned, except one in the caller's thread."""
        if not self._loop.inside:
            with self._calling:
                pass
        for clock in self._others:
            clock.settle()

    def start(self) -> None:
        """Let the time go on: each timer has what was left of its seconds. Idempotent."""
        with self._lock:
            if self._stopped is not None:
                now, self._stopped = self._stopped, None
                self._lost = self._loop.clock() - now
                for timer in sorted(self._timers, key=lambda timer: timer.when):
                    timer._timer = self._loop.call_later(max(timer.when - now, 0), timer._fire)
        for clock in self._others:
            clock.start()

    def close(self) -> None:
        """Cancel every timer, and those to come. Idempotent."""
        with self._lock:
            self._closed = True
            self._suspend()
            for timer in self._timers:
                timer._function = None
            self._timers.clear()
        for clock in self._others:
            clock.close()

    def _now(self) -> float:
        return self._stopped if self._stopped is not None else self._loop.clock() - self._lost

    def _suspend(self) -> None:
        for timer in self._timers:
            if timer._timer is not None:
                timer._timer.cancel()
                timer._timer = None

    def _cancel(self, timer: MachineTimer) -> None:
        with self._lock:
            timer._function = None
            if self._timers.pop(timer, self) is None and timer._timer is not None:
                timer._timer.cancel()

    def _fire(self, timer: MachineTimer) -> None:
        with self._calling:
            with self._lock:
                function = timer._function
                if function is None or self._stopped is not None:
                    return  # cancelled; or the clock is stopped, and ``start`` sets the timer again
                timer._function = None
                del self._timers[timer]
            function()
