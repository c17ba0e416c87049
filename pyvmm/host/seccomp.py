"""Filters for system calls (seccomp(2)): an allow-list, made into a BPF program, in force for good.

Sources: Linux include/uapi/linux/seccomp.h, filter.h, audit.h; system call numbers from
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (arm64).
"""

from __future__ import annotations

import os
import struct
from ctypes import Structure, addressof, c_ushort, c_void_p, create_string_buffer, get_errno

from pyvmm.host.libc import function
from pyvmm.host.privileges import no_new_privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Numbers by name: on x86-64, on arm64.
SYSCALLS = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "gettid": (186, 178),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "read": (0, 63),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "sigaltstack": (131, 132),
    "write": (1, 64),
}
#: Of these the argument with that index must have none of these bits.
FORBIDDEN_BITS = {"mmap": (2, 4), "mprotect": (2, 4)}  # PROT_EXEC

# By the machine's name: the column in SYSCALLS, AUDIT_ARCH_*, and the number of seccomp itself.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}
#: From this number on they are those of x32, another ABI of x86-64's.
_X32 = 0x40000000

_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM = 1
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
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


def program(names: Iterable[str], machine: str) -> bytes:
    """The BPF program that allows the system calls *names* and fails all others with EPERM.

    :param machine: ``x86_64`` or ``aarch64``; a call by another machine's ABI kills the process
    """
    column, architecture, _ = _ARCHITECTURES[machine]
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NR),
        _instruction(_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, _KILL_PROCESS),
    ]
    for name in names:
        number = SYSCALLS[name][column]
        if name in FORBIDDEN_BITS:
            index, bits = FORBIDDEN_BITS[name]
            code += [
                _instruction(_EQUAL, number, 0, 4),
                _instruction(_LOAD, _ARGUMENTS + 8 * index),  # the lower half; both are little-endian
                _instruction(_ANY_BIT, bits, 1, 0),
                _instruction(_RETURN, _ALLOW),
                _instruction(_RETURN, _ERRNO | _EPERM),
            ]
        else:
            code += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _ALLOW)]
    return b"".join([*code, _instruction(_RETURN, _ERRNO | _EPERM)])


def confine(names: Iterable[str]) -> None:
    """Allow this process, all its threads and children nothing but the system calls *names*, from now on.

    No new privileges either (PR_SET_NO_NEW_PRIVS). Raises SeccompError.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise SeccompError(f"there is no list of system calls for {machine}")
    code = program(names, machine)
    buffer = create_string_buffer(code, len(code))
    fprog = sock_fprog(len(code) // 8, addressof(buffer))
    try:
        no_new_privileges()
    except OSError as error:
        raise SeccompError(str(error.strerror)) from None
    number = _ARCHITECTURES[machine][2]
    answer = function("syscall")(
        number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, c_void_p(addressof(fprog))
    )
    if answer:
        raise SeccompError(f"seccomp: {os.strerror(get_errno()) if answer < 0 else 'a thread has another'}")


def _instruction(code: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter."""
    return struct.pack("<HBBI", code, if_true, if_false, constant)
