"""Filters for system calls (seccomp(2)): lists made into BPF programs, in force for good.

Source: Linux include/uapi/linux/seccomp.h, filter.h, audit.h.
"""

from __future__ import annotations

import os
import struct
from ctypes import Structure, addressof, c_ushort, c_void_p, create_string_buffer, get_errno
from errno import ENOSYS, EPERM

from pyvmm.host.libc import function
from pyvmm.host.privileges import no_new_privileges
from pyvmm.host.syscalls import SYSCALLS, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# clone(2): CLONE_THREAD, and CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020000
#: Of these calls the argument with that index must have none of these bits.
FORBIDDEN_BITS = {"mmap": (2, 4), "mprotect": (2, 4), "clone": (0, _CLONE_NEW)}  # 4: PROT_EXEC
#: Of these it must have this bit.
REQUIRED_BIT = {"clone": (0, _CLONE_THREAD)}

# By the machine's name: the column in SYSCALLS, and AUDIT_ARCH_*.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
#: From this number on they are those of x32, another ABI of x86-64's.
_X32 = 0x40000000

_KILL_PROCESS, _ERRNO, _USER_NOTIF, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, _SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 1, 8
# The fields of struct seccomp_data, and BPF's instructions.
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_LOAD, _RETURN, _EQUAL, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45


class SeccompError(Exception):
    """This kernel takes no filter; the sentence says what it answered."""


class sock_fprog(Structure):
    """The structure of a BPF program.

    struct sock_fprog {
        unsigned short len;
        struct sock_filter __user *filter;
    };
    """

    _fields_ = [("len", c_ushort), ("filter", c_void_p)]


def program(
    names: Iterable[str],
    machine: str,
    *,
    only: Mapping[str, tuple[int, Iterable[int]]] | None = None,
    errors: Mapping[str, int] | None = None,
    kill: bool = False,
) -> bytes:
    """The BPF program that allows the system calls *names* and fails all others with EPERM.

    The first of *names* are found soonest. One that *machine* does not have is left out.

    :param machine: ``x86_64`` or ``aarch64``; a call by another machine's ABI kills the process
    :param only: of these calls the argument with that index, 32 bits of it, must be one of these numbers
    :param errors: calls that fail with another errno
    :param kill: what is not allowed kills the process; only ENOSYS of *errors* remains an answer
    """
    column, architecture = _ARCHITECTURES[machine]
    only, errors = only or {}, errors or {}
    refused = _KILL_PROCESS if kill else _ERRNO | EPERM
    code = _head(architecture)
    for name in names:
        number = SYSCALLS[name][column]
        if number is not None:
            block = _allowed(name, only.get(name), refused)
            code += [_instruction(_EQUAL, number, 0, len(block)), *block]
    for name, error in errors.items():
        number = SYSCALLS[name][column]
        if number is not None:
            answer = _ERRNO | error if error == ENOSYS or not kill else refused
            code += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, answer)]
    return b"".join([*code, _instruction(_RETURN, refused)])


def denial(
    names: Iterable[str], machine: str, *, answers: Mapping[str, int], asked: Iterable[str] = ()
) -> bytes:
    """The BPF program that fails the system calls *names* with EPERM and allows all others.

    For programs of others, whose needs are theirs to change. Of ``clone`` among *names* what makes a thread,
    and no namespace, is allowed. One that *machine* does not have is left out.

    :param answers: calls that fail with another errno
    :param asked: calls that whoever has the filter's listener answers; ENOSYS once it is closed
    """
    column, architecture = _ARCHITECTURES[machine]
    returned = dict.fromkeys(asked, _USER_NOTIF)
    returned |= {name: _ERRNO | error for name, error in answers.items()}
    code = _head(architecture)
    for name in (*returned, *names):
        number = SYSCALLS[name][column]
        if number is not None:
            refusal = [_instruction(_RETURN, returned.get(name, _ERRNO | EPERM))]
            block = refusal if name in returned or name != "clone" else _allowed(name, None, _ERRNO | EPERM)
            code += [_instruction(_EQUAL, number, 0, len(block)), *block]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _head(architecture: int) -> list[bytes]:
    """The number of the call is loaded; calls by another ABI kill the process."""
    return [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NR),
        _instruction(_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, _KILL_PROCESS),
    ]


def _allowed(name: str, only: tuple[int, Iterable[int]] | None, refused: int) -> list[bytes]:
    """What decides over the call *name*; at most 255 instructions."""
    code: list[bytes] = []
    if only is not None:
        index, values = only
        code.append(_instruction(_LOAD, _ARGUMENTS + 8 * index))  # the lower half; both are little-endian
        for value in values:
            code += [_instruction(_EQUAL, value, 0, 1), _instruction(_RETURN, _ALLOW)]
        return [*code, _instruction(_RETURN, refused)]
    if name in FORBIDDEN_BITS:
        index, bits = FORBIDDEN_BITS[name]
        code += [
            _instruction(_LOAD, _ARGUMENTS + 8 * index),
            _instruction(_ANY_BIT, bits, 0, 1),
            _instruction(_RETURN, refused),
        ]
    if name in REQUIRED_BIT:
        index, bit = REQUIRED_BIT[name]
        code += [
            _instruction(_LOAD, _ARGUMENTS + 8 * index),
            _instruction(_ANY_BIT, bit, 1, 0),
            _instruction(_RETURN, refused),
        ]
    return [*code, _instruction(_RETURN, _ALLOW)]


def machine() -> str:
    """This machine, as ``program`` calls it. Raises SeccompError for one that it does not know."""
    name = os.uname().machine
    if name not in _ARCHITECTURES:
        raise SeccompError(f"there is no list of system calls for {name}")
    return name


def confine(names: Iterable[str]) -> None:
    """Allow this process, all its threads and children nothing but the system calls *names*, from now on.

    No new privileges either (PR_SET_NO_NEW_PRIVS). Raises SeccompError.
    """
    enforce(program(names, machine()))


def enforce(code: bytes) -> None:
    """Put this process, all its threads and children under *code*, made by ``program``, from now on.

    No new privileges either (PR_SET_NO_NEW_PRIVS). Raises SeccompError.
    """
    if _enforce(code, _SECCOMP_FILTER_FLAG_TSYNC):
        raise SeccompError("seccomp: a thread has another")


def enforce_here(code: bytes) -> int:
    """Put this thread and what it starts under *code*, from now on; the filter's listener, close-on-exec.

    No new privileges either (PR_SET_NO_NEW_PRIVS). Raises SeccompError, also where there is a listener
    already.
    """
    return _enforce(code, _SECCOMP_FILTER_FLAG_NEW_LISTENER)


def _enforce(code: bytes, flags: int) -> int:
    buffer = create_string_buffer(code, len(code))
    fprog = sock_fprog(len(code) // 8, addressof(buffer))
    try:
        no_new_privileges()
    except OSError as error:
        raise SeccompError(str(error.strerror)) from None
    answer = function("syscall")(
        number("seccomp"), _SECCOMP_SET_MODE_FILTER, flags, c_void_p(addressof(fprog))
    )
    if answer < 0:
        raise SeccompError(f"seccomp: {os.strerror(get_errno())}")
    return answer


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter."""
    return struct.pack("<HBBI", code, if_true, if_false, constant)
