"""How a guest ended, and how that is known."""

from __future__ import annotations

from pyvmm.errors import GuestError

# Exit codes; docs/reference/exit-codes.md is made from these comments.
#: the guest powered off or rebooted by its own will
OK = 0
#: stopped by the host: a signal, `--timeout`, Ctrl-A x, a power button that the guest ignored
STOPPED = 3
#: the guest's watchdog was not fed
WATCHDOG = 4
#: the guest did what this VMM or this host cannot carry out: KVM internal error, failed entry, refused access
UNSUPPORTED = 5
#: a device failed: an error in its own code, or of what stands behind it
DEVICE_FAILED = 6
#: the guest crashed: panic, triple fault
CRASHED = 7
#: no vCPU can run again: each is off, or halted with interrupts masked
HALTED = 8
#: chosen by the guest: byte v written to the debug-exit port gives 32 + (v & 31)
GUEST_FIRST = 32
#: an error after the start that is a defect of pyvmm
FATAL = 96

# How an ending is known.
#: the guest said so: a register of the machine, a PSCI call, the debug-exit port
TOLD = "told"
#: concluded from what KVM reported, or from the log of the guest's kernel in its memory
INFERRED = "inferred"
#: neither
UNKNOWN = "unknown"


class EndingError(GuestError):
    """A guest ended in another way than it should; *ending* says how.

    ``str(error)`` is the sentence of ``str(ending)``, ``exit_code`` the ending's code.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending
        self.exit_code = ending.code


class Ending:
    """One record: how the guest ended.

    :param code: the exit code (docs/reference/exit-codes.md)
    :param reason: one word: poweroff, reboot, halt, stopped, timeout, panic, triple-fault, debug-exit,
        unsupported, fail-entry, device, internal, ...
    :param known: told by the guest, inferred from what KVM reported, or unknown
    :param detail: a sentence for people; empty when the reason says it all
    """

    __slots__ = ("code", "detail", "known", "reason")

    def __init__(self, code: int, reason: str, known: str, detail: str = "") -> None:
        self.code = code
        self.reason = reason
        self.known = known
        self.detail = detail

    @property
    def ok(self) -> bool:
        """Whether the guest powered off or rebooted by its own will (code 0)."""
        return self.code == OK

    def check(self) -> Ending:
        """The ending itself if it is ``ok``. Raises EndingError for any other."""
        if not self.ok:
            raise EndingError(self)
        return self

    def __str__(self) -> str:
        """The ending as a sentence: ``panic: the log of the guest's kernel says: ... (inferred)``."""
        return f"{self.reason}: {self.detail} ({self.known})" if self.detail else self.reason

    def __repr__(self) -> str:
        return (
            f"Ending(code={self.code}, reason={self.reason!r}, known={self.known!r}, detail={self.detail!r})"
        )

    def record(self) -> dict[str, object]:
        """The ending as plain values, for ``--result``."""
        return {"code": self.code, "reason": self.reason, "known": self.known, "detail": self.detail}


def debug_exit(value: int) -> Ending:
    """The guest wrote *value* to the debug-exit port."""
    return Ending(
        GUEST_FIRST + (value & 31), "debug-exit", TOLD, f"the guest wrote {value:#x} to the debug-exit port"
    )
