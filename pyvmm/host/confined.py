"""A function of bytes that is called in a process of its own, which can do nothing but compute.

For code that works on what nobody vouches for, such as a decompressor on a downloaded kernel: should the data
take it over, it has two anonymous files and no system call to open, connect, start or signal anything.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os

from pyvmm.host import interpreter
from pyvmm.host.writing import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds that a call may take, also of processor time.
TIME_LIMIT = 600
#: Bytes of the sentence of an error.
SENTENCE = 1000
#: Bytes of address space beyond what the data and the result take.
_ROOM = 1 << 30
#: What Python needs to compute, to read, to write and to end.
CALLS = (
    "read",
    "write",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "brk",
    "futex",
    "lseek",
    "close",
    "clock_gettime",
    "getpid",
    "gettid",
    "getrandom",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "restart_syscall",
    "sched_yield",
    "sigaltstack",
    "exit",
    "exit_group",
)
# The process's descriptors; its standard error is a file that ``call`` reads.
_INPUT, _OUTPUT, _SENTENCE = 3, 4, 2
_FAILED = 1


class ConfinedError(Exception):
    """The function raised, or was stopped; the sentence is the exception's."""


def call(
    name: str, data: memoryview, limit: int, arguments: Sequence[str] = (), libraries: Sequence[str] = ()
) -> memoryview:
    """What the function *name* returns for *data* and *arguments*, at most *limit* bytes.

    :param name: ``MODULE:FUNCTION``, of ``(memoryview, *str) -> bytes``
    :param libraries: modules that it imports when it is called; one that is not installed is left out

    Raises ConfinedError, with the exception's text when the function raised one. On a kernel without seccomp
    the process has limits of time and memory only.
    """
    from pyvmm.host.child import spawn
    from pyvmm.host.printable import printable

    task = {"name": name, "arguments": [*arguments], "libraries": [*libraries], "limit": limit}
    command = interpreter.command(__name__, task)
    fds: list[int] = []
    try:
        fds += map(os.memfd_create, ("pyvmm-input", "pyvmm-output", "pyvmm-error"))
        given, result, sentence = fds
        write_all(given, data)
        child = spawn(command, fds=(given, result), errors=sentence)
        try:
            status = child.wait(TIME_LIMIT)
        finally:
            child.end(0)
        if status is None:
            raise ConfinedError(f"it was not done in {TIME_LIMIT} seconds")
        if status:
            text = printable(os.pread(sentence, SENTENCE, 0).decode(errors="replace"), SENTENCE)
            raise ConfinedError(text if status == _FAILED and text else f"its process ended with {status}")
        size = os.fstat(result).st_size
        if size > limit:
            raise ConfinedError(f"it makes more than {limit} bytes")
        return _mapped(result, size)
    except OSError as error:
        raise ConfinedError(f"no process for it could be started: {error.strerror or error}") from None
    finally:
        for fd in fds:
            os.close(fd)


def main(text: str) -> None:
    """Carry out the task *text*, made by ``call``, and end this process."""
    import resource

    task = json.loads(text)
    module, _, name = task["name"].partition(":")
    called = getattr(importlib.import_module(module), name)
    for library in task["libraries"]:
        try:
            importlib.import_module(library)
        except ImportError:
            pass  # the function says so
    size = os.fstat(_INPUT).st_size
    data = _mapped(_INPUT, size)
    for which, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, TIME_LIMIT),
        (resource.RLIMIT_FSIZE, task["limit"]),
        (resource.RLIMIT_AS, _ROOM + size + 2 * task["limit"]),
    ):
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))
    _confine()
    try:
        write_all(_OUTPUT, memoryview(called(data, *task["arguments"])))
    except BaseException as error:
        os.write(_SENTENCE, str(error).encode(errors="replace")[:SENTENCE])
        os._exit(_FAILED)
    os._exit(0)


def _mapped(fd: int, size: int) -> memoryview:
    return memoryview(mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ) if size else b"")


def _confine() -> None:
    from pyvmm.host.seccomp import SeccompError, confine

    try:
        confine(CALLS)
    except SeccompError:
        pass  # as ``call`` says
