"""Questions to every vCPU, each of which leaves KVM_RUN and answers in its own thread."""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.machine.vcpu import VcpuThread
    from pyvmm.pykvm import Vcpu


class Questions:
    """The questions that some vCPU has not answered yet; any number at a time.

    A vCPU that stands still during a pause answers when it continues.

    :param vcpus: the threads of the machine's vCPUs; they have been made before the first question
    """

    __slots__ = ("_gone", "_lock", "_open", "_vcpus")

    def __init__(self, vcpus: Sequence[VcpuThread]) -> None:
        self._vcpus = vcpus
        self._lock = allocate_lock()  # the two below and each question's fields
        self._open: tuple[_Question, ...] = ()
        self._gone: set[Vcpu] = set()

    def ask(self, question: Callable[[Vcpu], object], answered: Callable[[], object]) -> None:
        """Make every vCPU leave KVM_RUN, and call *question* once for each, in its thread. Any thread.

        *answered* is called once, when the last of these calls has returned or raised, in that thread. A vCPU
        whose thread has ended, or ends before its turn, has answered; when all have ended, it is called here.
        """
        with self._lock:
            asked = _Question(question, answered, {t.vcpu for t in self._vcpus} - self._gone)
            if asked.due:
                self._open += (asked,)
        if not asked.missing:
            answered()
            return
        for thread in self._vcpus:
            thread.kick()

    def answer(self, vcpu: Vcpu) -> None:
        """*vcpu*, in whose thread this is called, has left KVM_RUN: call what it was asked.

        Raises what a question raises.
        """
        for asked in self._open:
            with self._lock:
                if vcpu not in asked.due:
                    continue
                asked.due.remove(vcpu)
            try:
                asked.question(vcpu)
            finally:
                self._answered(asked)

    def gone(self, vcpu: Vcpu) -> None:
        """The thread of *vcpu*, in which this is called, ends: it has answered whatever it is asked."""
        with self._lock:
            self._gone.add(vcpu)
            left = [asked for asked in self._open if vcpu in asked.due]
            for asked in left:
                asked.due.remove(vcpu)
        for asked in left:
            self._answered(asked)

    def _answered(self, asked: _Question) -> None:
        with self._lock:
            asked.missing -= 1
            if asked.missing:
                return
            self._open = tuple(other for other in self._open if other is not asked)
        asked.answered()


class _Question:
    """One question, the vCPUs whose turn is to come, and how many answers are missing."""

    __slots__ = ("answered", "due", "missing", "question")

    def __init__(
        self, question: Callable[[Vcpu], object], answered: Callable[[], object], due: set[Vcpu]
    ) -> None:
        self.question = question
        self.answered = answered
        self.due = due
        self.missing = len(due)
