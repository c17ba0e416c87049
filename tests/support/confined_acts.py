"""Acts that a confined process must not be able to do; each returns ``done``, or the name of the errno.

They go by the C library: what Python refuses by itself proves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

_LIBC = ctypes.CDLL(None, use_errno=True)
#: On x86-64, on arm64.
_NUMBERS = {
    "openat2": (437, 437),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "seccomp": (317, 277),
    "memfd_create": (319, 279),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "ptrace": (101, 117),
}
_COLUMN = 1 if os.uname().machine == "aarch64" else 0
_PROT_READ, _PROT_EXEC, _MAP_PRIVATE_ANONYMOUS = 1, 4, 0x22


def _syscall(name: str, *arguments: object) -> int:
    answer: int = _LIBC.syscall(_NUMBERS[name][_COLUMN], *arguments)
    return answer


def _fork() -> int:
    pid: int = _LIBC.fork()
    if pid == 0:
        os._exit(0)
    return pid


def _mmap_executable() -> int:
    _LIBC.mmap.restype = ctypes.c_ssize_t
    answer: int = _LIBC.mmap(None, 4096, _PROT_READ | _PROT_EXEC, _MAP_PRIVATE_ANONYMOUS, -1, 0)
    return answer


def _mprotect_executable() -> int:
    _LIBC.mmap.restype = ctypes.c_ssize_t
    page = _LIBC.mmap(None, 4096, _PROT_READ, _MAP_PRIVATE_ANONYMOUS, -1, 0)
    answer: int = _LIBC.mprotect(ctypes.c_void_p(page), 4096, _PROT_READ | _PROT_EXEC)
    return answer


ACTS = {
    "open": lambda: _LIBC.open(b"/etc/passwd", os.O_RDONLY),
    "openat2": lambda: _syscall("openat2", -100, b"/etc/passwd", (ctypes.c_uint64 * 3)(), 24),
    "stat": lambda: _LIBC.access(b"/etc/passwd", os.R_OK),
    "unlink": lambda: _LIBC.unlink(b"/nowhere/at/all"),
    "fork": _fork,
    "clone3": lambda: _syscall("clone3", None, 0),
    "execve": lambda: _LIBC.execve(b"/nowhere/at/all", None, None),
    "socket": lambda: _LIBC.socket(1, 1, 0),
    "kill": lambda: _LIBC.kill(os.getpid(), 0),
    "signal of the parent": lambda: _LIBC.kill(os.getppid(), signal.SIGCONT),
    "ptrace": lambda: _syscall("ptrace", 16, os.getpid(), 0, 0),
    "pidfd_open": lambda: _syscall("pidfd_open", os.getpid(), 0),
    "pidfd_getfd": lambda: _syscall("pidfd_getfd", 0, 0, 0),
    "process_vm_readv": lambda: _syscall("process_vm_readv", os.getpid(), None, 0, None, 0, 0),
    "io_uring_setup": lambda: _syscall("io_uring_setup", 1, (ctypes.c_uint8 * 120)()),
    "bpf": lambda: _syscall("bpf", 0, None, 0),
    "userfaultfd": lambda: _syscall("userfaultfd", 1),
    "perf_event_open": lambda: _syscall("perf_event_open", None, 0, -1, -1, 0),
    "keyctl": lambda: _syscall("keyctl", 0, -3, 0),
    "seccomp": lambda: _syscall("seccomp", 2, 0, None),
    "memfd_create": lambda: _syscall("memfd_create", b"x", 0),
    "unshare": lambda: _syscall("unshare", 0x04000000),
    "prctl": lambda: _LIBC.prctl(15, b"other", 0, 0, 0),
    "ioctl": lambda: _LIBC.ioctl(2, 0x5413, (ctypes.c_uint16 * 4)()),
    "dup": lambda: _LIBC.dup(2),
    "setrlimit": lambda: _LIBC.setrlimit(0, (ctypes.c_uint64 * 2)(1000, 1000)),
    "mmap of code": _mmap_executable,
    "mprotect to code": _mprotect_executable,
}


def tried(data: memoryview) -> bytes:
    """``ACT: ANSWER`` for each of ACTS, a line each; *data* goes before them."""
    lines = []
    for name, act in ACTS.items():
        ctypes.set_errno(0)
        answer = act()
        lines.append(f"{name}: {errno.errorcode[ctypes.get_errno()] if answer == -1 else 'done'}\n")
    return bytes(data) + "".join(lines).encode()


def echo(data: memoryview, *more: str) -> bytes:
    """*data*, and what comes with it."""
    return bytes(data) + "".join(more).encode()


def fail(data: memoryview) -> bytes:
    """Raise, with a text that no terminal should see."""
    raise ValueError("it is \x1b[31mbroken")


def crash(data: memoryview) -> bytes:
    """End by a signal."""
    return ctypes.string_at(0)


def too_much(data: memoryview) -> bytes:
    """More memory than there may be."""
    return bytes(8 << 30)


def long(data: memoryview) -> bytes:
    """More bytes than the caller wants."""
    return bytes(5000)
