"""Sees that a guest has halted for good: every vCPU is off, or stopped with interrupts masked.

KVM does not tell: it carries out HLT and WFI itself. See docs/internals/endings.md.
"""

from __future__ import annotations

from pyvmm.machine.vcpu_watch import VcpuWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

#: Seconds between two looks at the processor time of the vCPUs' threads.
TICK = 0.25
#: Seconds until the vCPUs themselves are looked at again, at most: the guest was alive; and where vCPUs spin.
LATEST = 4.0
LATEST_SPINNING = 1.0
#: Seconds of processor time in one tick that are more than waking up and going to sleep again costs.
WORKED = 0.0005
#: Rounds in which every vCPU must be found stopped: during the first, one may have woken another.
ROUNDS = 2


class HaltWatch(VcpuWatch):
    """Tells once, in the loop's thread, when no vCPU can ever run again."""

    def start(self) -> None:
        """Begin; the vCPUs have been started."""
        self._times: list[float] = []  # of the last tick
        self._since = 0.0  # the next look, and how long after it the one that follows
        self._interval = TICK
        self._looked = False  # at the vCPUs since the last tick
        self._rounds = 0
        self._alive = False  # a vCPU that may run again was found in this round
        self._stopped: Callable[[Vcpu, GuestMemory], bool]
        self._spins = False
        self._clock.call_later(TICK, self._tick)

    def _look(self, vcpu: Vcpu) -> None:
        """Look at *vcpu*, in whose thread this is called."""
        try:
            alive = self._alive or not self._stopped(vcpu, self._memory)
        except Exception:  # KVM gives no such state of this vCPU
            alive = True
        if alive:
            self._alive = True

    # In the loop's thread

    def _tick(self) -> None:
        self._clock.call_later(TICK, self._tick)
        if self._rounds:
            return  # one is under way
        times = [vcpu.processor_time() for vcpu in self._vcpus]
        before, self._times = self._times, times
        looked, self._looked = self._looked, False
        if not before:
            self._choose()
            return
        used = [now - then for now, then in zip(times, before, strict=True)]
        now = self._clock.clock()
        if sum(used) > WORKED and not looked:
            self._interval = TICK
            self._since = min(self._since, now + (LATEST_SPINNING if self._spins else 0))
        if now >= self._since and (self._spins or not any(used)):
            self._begin_round()

    def _choose(self) -> None:
        from pyvmm.arch import native

        module = native.vcpu_state()
        self._stopped, self._spins = module.stopped, module.SPINS

    def _begin_round(self) -> None:
        self._rounds += 1
        self._alive = False
        self._look_at_all(self._look, self._round_over)

    def _round_over(self) -> None:
        if self._alive:
            self._rounds = 0
            self._looked = True
            self._since = self._clock.clock() + self._interval
            self._interval = min(2 * self._interval, LATEST)
        elif self._rounds < ROUNDS:
            self._begin_round()
        else:
            self._tell()
