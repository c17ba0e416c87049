"""What a vCPU's thread cannot decide by itself: pauses, rare exits, the end."""

from __future__ import annotations

from pyvmm.machine.questions import Questions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.machine.coalesced import Coalescing
    from pyvmm.machine.gate import Gate
    from pyvmm.machine.reports import End, GuestReports
    from pyvmm.machine.vcpu import VcpuThread
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu


class ExitHandler:
    """The ``VcpuOwner`` of a machine's vCPU threads. All methods are called by any of them.

    :param end: ends the machine
    :param over: whether the machine has ended
    :param image: the file that the guest was booted from
    :param vcpus: all of the machine, once they are made
    """

    __slots__ = (
        "_coalescing",
        "_gate",
        "_image",
        "_over",
        "_questions",
        "_reports",
        "_vcpus",
        "end",
        "memory",
    )

    def __init__(
        self,
        end: End,
        over: Callable[[], bool],
        gate: Gate,
        reports: GuestReports,
        coalescing: Coalescing,
        memory: GuestMemory,
        image: str | None,
        vcpus: Sequence[VcpuThread],
    ) -> None:
        self.end = end
        self._over = over
        self._gate = gate
        self._reports = reports
        self._coalescing = coalescing
        self.memory = memory
        self._image = image
        self._vcpus = vcpus
        self._questions = Questions(vcpus)

    def device_failed(self, name: str, error: Exception) -> None:
        """Device *name* raised *error* while it handled an access."""
        self._reports.device_failed(name, error)

    def checkpoint(self, vcpu: Vcpu) -> bool:
        """The vCPU left KVM_RUN without an exit: wait during a pause. False when the machine ends."""
        self._questions.answer(vcpu)
        if not self._over():
            self._gate.stand()
        return not self._over()

    def here(self) -> Vcpu | None:
        """The vCPU whose thread calls; None in another thread."""
        return next((thread.vcpu for thread in self._vcpus if thread.is_current), None)

    def ask(self, question: Callable[[Vcpu], object], answered: Callable[[], object]) -> None:
        """Call *question* once for each vCPU in its thread, then *answered*, as ``Questions.ask`` does."""
        self._questions.ask(question, answered)

    def gone(self, vcpu: Vcpu) -> None:
        """The thread of *vcpu* ends, and answers no more questions."""
        self._questions.gone(vcpu)

    def system_event(self, kind: int) -> bool:
        """KVM_EXIT_SYSTEM_EVENT of type *kind* (KVM_SYSTEM_EVENT_*): False when that ends the machine."""
        return self._reports.system_event(kind)

    def first_write(self, port: int) -> None:
        """The guest wrote a byte to *port* (0 to 0xffff) for the first time. Raises KvmError."""
        self._coalescing.first_write(port)

    def cannot_go_on(self, vcpu: Vcpu, index: int, reason: int, number: int = 0) -> None:
        """vCPU *index* left KVM_RUN with exit *reason* (KVM_EXIT_*) or errno *number* and cannot continue."""
        from pyvmm.machine.diagnose import diagnose  # imported when needed: few guests end so

        self.end(diagnose(vcpu, index, self.memory, self._image, reason, number))
