"""Sees a vCPU that stays at one place of a kernel: Linux does so after a panic that is not to reboot.

That is no evidence of a panic, but a reason to look for one in the kernel's log. See
docs/internals/endings.md.
"""

from __future__ import annotations

from pyvmm.machine.vcpu_watch import VcpuWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm import Vcpu

#: Seconds between two looks at the processor time of the vCPUs' threads.
TICK = 1.0
#: Part of a tick that a vCPU which works all the time gets at least, on a host that is busy with others.
SHARE = 0.05
#: Ticks in which a vCPU must have worked before its registers are looked at.
WORKED = 8
#: How many of so many looks must find it at one place: the others may meet it in an interrupt.
AT_PLACE, LOOKS = 4, 10
#: Bytes of code that are one place.
PLACE = 4096
#: Ticks until the next look after LOOKS in vain, doubled each time until no vCPU works; at most.
FIRST_REST, LONGEST_REST = 8, 900


class SpinWatch(VcpuWatch):
    """Tells, in the loop's thread, when AT_PLACE of LOOKS looks have found a vCPU at one place of code."""

    def start(self) -> None:
        """Begin; the vCPUs have been started."""
        self._times = [0.0] * len(self._vcpus)
        self._worked = [0] * len(self._vcpus)  # ticks in a row
        self._rest = FIRST_REST
        self._ticks_to_rest = 0
        self._asking = False
        self._looks = 0  # so far, and how many of them found which vCPU at which place
        self._found: dict[tuple[Vcpu, int], int] = {}
        self._seen: dict[Vcpu, int | None] = {}
        self._clock.call_later(TICK, self._tick)

    def _look(self, vcpu: Vcpu) -> None:
        """Look at *vcpu*, in whose thread this is called."""
        from pyvmm.arch import native

        try:
            self._seen[vcpu] = native.vcpu_state().kernel_place(vcpu, self._memory)
        except Exception:  # KVM gives no such state of this vCPU
            self._seen[vcpu] = None

    # In the loop's thread

    def _tick(self) -> None:
        self._clock.call_later(TICK, self._tick)
        for number, thread in enumerate(self._vcpus):
            now = thread.processor_time()
            works = now - self._times[number] > SHARE * TICK
            self._worked[number] = self._worked[number] + 1 if works else 0
            self._times[number] = now
        if not any(self._worked):
            self._rest = FIRST_REST
        if self._ticks_to_rest:
            self._ticks_to_rest -= 1
        elif max(self._worked) < WORKED:
            self._forget()
        elif not self._asking:
            self._asking = True
            self._seen = {}
            self._look_at_all(self._look, self._looked)

    def _looked(self) -> None:
        self._asking = False
        self._looks += 1
        for thread, ticks in zip(self._vcpus, self._worked, strict=True):
            at = self._seen.get(thread.vcpu)
            if at is None or ticks < WORKED:
                continue
            place = thread.vcpu, at // PLACE
            self._found[place] = self._found.get(place, 0) + 1
        spins = AT_PLACE in self._found.values()
        if spins:
            self._tell()
        if spins or self._looks == LOOKS:
            self._forget()
            self._ticks_to_rest = self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)

    def _forget(self) -> None:
        self._looks = 0
        self._found.clear()
