"""How a guest ended, and how that is known."""

from __future__ import annotations

#: Exit codes, as documented in docs/architecture.md.
OK = 0
STOPPED = 3
WATCHDOG = 4
UNSUPPORTED = 5
DEVICE_FAILED = 6
CRASHED = 7
GUEST_FIRST = 32
FATAL = 96

#: Sources of the knowledge.
TOLD = "told"
INFERRED = "inferred"
UNKNOWN = "unknown"


class Ending:
    """One record: how the guest ended.

    :param code: the exit code (docs/architecture.md)
    :param reason: one word: poweroff, reboot, stopped, timeout, panic, triple-fault, debug-exit,
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
