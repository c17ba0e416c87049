"""What every verb owes the user: one line for a problem, a Ctrl-C that works, a warning in time."""

from __future__ import annotations

import _signal  # without the enums of ``signal``
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.virtio.console.port import Port


def complain(sentence: str) -> None:
    """One line on stderr; a guest's words or a file's name in it cannot drive the terminal."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(sentence.split()))
    try:
        sys.stderr.write(f"pyvmm: {line}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens any more


def announce(config: Config, console: CharBackend, ports: Sequence[Port] = ()) -> None:
    """Say before the start what the user cannot know: a pty's name, what a kernel meets on this host."""
    if config.console == "pty":
        complain(f"the console is {console.describe()}")
    for port in ports:
        where = port.backend.describe()
        if where.startswith("pty "):
            complain(f"virtio console port {port.name or port.number} is {where}")
    if config.kernel is not None:
        from pyvmm.arch import native

        warning = native.host().kernel_warning()
        if warning:
            complain(warning)


class Interruptible:
    """A context in which Ctrl-C raises KeyboardInterrupt, unless it is ignored or handled already."""

    def __enter__(self) -> None:
        self._before = _signal.getsignal(_signal.SIGINT)
        if self._before == _signal.SIG_DFL:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._before == _signal.SIG_DFL:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
