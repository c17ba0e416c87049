"""What a verb came to: one line for what went wrong, and an exit code; and the way out of the process."""

from __future__ import annotations

import _signal  # without the enums of ``signal``
import errno
import os
import sys

from pyvmm.cli.messages import message
from pyvmm.errors import PyvmmError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

INTERRUPTED = 130

_MORE_FILES = "raise the limit of open files (ulimit -n)"
#: What the host lacks wherever one of these errors is met, and what to do about it.
_LACKS = {
    errno.ENOSPC: "no space is left on a device that is written to; make room there",
    errno.EMFILE: f"this process gets no more descriptors; {_MORE_FILES}",
    errno.ENFILE: "this host gives no more descriptors; raise the limit of this host (sysctl fs.file-max)",
    errno.ENOMEM: "this process gets no more memory; raise its limit (ulimit -v), or ask for less",
}


def code_of(verb: Callable[[], int]) -> int:
    """The exit code of *verb*; what it raises is printed as one line."""
    try:
        return verb()
    except SystemExit as stop:  # --help of a verb
        return stop.code if isinstance(stop.code, int) else 0
    except PyvmmError as error:
        message(_advised(str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except Exception as error:
        # An ImportError has the text of dlopen(3) alone.
        no_memory = isinstance(error, MemoryError) or "failed to map segment" in str(error)
        number = errno.ENOMEM if no_memory else getattr(error, "errno", None)
        lack = _LACKS.get(number or 0)
        if lack is not None:
            message(lack)
            return StartError.exit_code
        if os.environ.get("PYVMM_DEBUG"):
            raise
        message(f"internal error: {error!r}; set PYVMM_DEBUG=1 to see where, and report it")
        return PyvmmError.exit_code


def _advised(sentence: str) -> str:
    """*sentence*; where descriptors are short, that is to be mended, whatever else might be wrong there."""
    why = os.strerror(errno.EMFILE)
    before, found, _ = sentence.partition(why)
    return f"{before}{why}; {_MORE_FILES}" if found and "ulimit -n" not in sentence else sentence


def leave(code: int) -> NoReturn:
    """End the process with *code*, 0 to 255: no interpreter teardown, nothing is left to tidy."""
    code = _flushed(code)
    # Whoever reads our terminal may close it when we have: that must not change how we end.
    _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
    os.closerange(0, 3)  # whoever reads them to the end does not wait for what the kernel still tidies
    os._exit(code)


def _flushed(code: int) -> int:
    """Write out what was printed; *code*, or another where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        message(f"standard output: {error.strerror}; give it a place where it fits")
        return code or StartError.exit_code
    return code


def _forget_stdout() -> None:
    """The reader of stdout is gone: later flushes must not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
