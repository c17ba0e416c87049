"""What looks at the vCPUs of a running machine now and then."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.machine.clock import MachineClock
    from pyvmm.machine.vcpu import VcpuThread
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu


class VcpuWatch:
    """Calls *tell*, in the loop's thread, when what a subclass looks for has been seen.

    :param vcpus: those of the machine
    :param ask: asks every vCPU something, and calls its second argument when all have answered
    """

    def __init__(
        self,
        clock: MachineClock,
        vcpus: Sequence[VcpuThread],
        memory: GuestMemory,
        ask: Callable[[Callable[[Vcpu], object], Callable[[], object]], object],
        tell: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._vcpus = vcpus
        self._memory = memory
        self._ask = ask
        self._tell = tell

    def _look_at_all(self, look: Callable[[Vcpu], object], then: Callable[[], object]) -> None:
        """Call ``look(vcpu)`` in each vCPU's thread, and *then* in the loop's when all have answered."""
        self._ask(look, lambda: self._clock.call_later(0, then))
