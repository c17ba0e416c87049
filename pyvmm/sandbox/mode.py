"""The values of ``--sandbox``, and what each does where this host lacks a step of the sandbox."""

from __future__ import annotations

from pyvmm.errors import ConfigError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Every step that this host can take; the same, and no start without all of them; none.
ON, STRICT, OFF = "on", "strict", "off"
MODES = (ON, OFF, STRICT)
METAVAR = "MODE"
HELP = "confine the process: on, as far as this host can; strict, wholly or not at all; off"


def parse_mode(text: object) -> str:
    """The mode that *text* names: one of ``MODES``. Raises ConfigError."""
    if text not in MODES:
        raise ConfigError(f"--sandbox={text} is not offered; choose {', '.join(MODES)}")
    return str(text)


def lacking_line(mode: str, lacking: Sequence[str]) -> str | None:
    """The line for standard error of a process in a sandbox; None when this host lacks nothing.

    :param lacking: ``Sandbox.lacking``, after both halves

    Raises StartError for ``strict`` when a step is missing.
    """
    if not lacking:
        return None
    steps = "; ".join(lacking)
    if mode == STRICT:
        raise StartError(
            f"--sandbox=strict: this host lacks a part of the sandbox ({steps}); mend that, or give "
            "--sandbox=on"
        )
    return f"this host lacks a part of the sandbox, and the process goes on without it: {steps}"
