"""Acts that the process of a VM must not be able to do: what each answers in the sandbox, and without it.

They go by the C library or by number: what Python refuses by itself proves nothing. None changes anything
where it succeeds, or it names what is not there.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from pyvmm.host.syscalls import SYSCALLS

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_ssize_t
_COLUMN = 1 if os.uname().machine == "aarch64" else 0
#: On x86-64, on arm64; those that ``SYSCALLS`` does not have.
_NUMBERS = {
    **SYSCALLS,
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capset": (126, 91),
    "clock_settime": (227, 112),
    "copy_file_range": (326, 285),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fsopen": (430, 430),
    "getdents64": (217, 61),
    "init_module": (175, 105),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "io_uring_enter": (426, 426),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_create_ruleset": (444, 444),
    "memfd_create": (319, 279),
    "mlock": (149, 228),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pipe2": (293, 59),
    "pkey_mprotect": (329, 288),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "sched_setaffinity": (203, 122),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setresuid": (117, 147),
    "setuid": (105, 146),
    "shmget": (29, 194),
    "splice": (275, 76),
    "syslog": (103, 116),
    "tkill": (200, 130),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_PROT_READ, _PROT_WRITE, _PROT_EXEC, _SHARED_ANONYMOUS, _PRIVATE_ANONYMOUS = 1, 2, 4, 0x21, 0x22
_AT_FDCWD = -100
#: Without CLONE_VM, CLONE_SIGHAND is EINVAL.
_SIGCHLD, _CLONE_SIGHAND, _CLONE_NEWUSER, _CLONE_THREAD_FLAGS = 17, 0x800, 0x10000000, 0x00010F00
_TIOCSTI, _TIOCLINUX, _TIOCSCTTY = 0x5412, 0x541C, 0x540E
_KVM_CREATE_VM, _KVM_CREATE_VCPU, _KVM_SET_USER_MEMORY_REGION = 0xAE01, 0xAE41, 0x4020AE46
_F_SETOWN, _F_NOTIFY, _F_SETLEASE, _F_DUPFD = 8, 1026, 1024, 0
#: Nothing is there.
_NOWHERE = b"/nowhere/at/all"
_NO_FD = 9999

DONE = "done"
#: The machine's own, for requests to KVM.
descriptors = {"kvm": 0, "vm": 0}


class Act(NamedTuple):
    """*call* answers -1 and sets errno, or something else."""

    call: Callable[[], int]
    #: The name of the errno in the sandbox.
    refused: str
    #: What it comes to without: DONE, or what is wrong with its arguments.
    free: str


def _syscall(name: str, *arguments: object) -> int:
    number = _NUMBERS[name][_COLUMN]
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    _LIBC.syscall.restype = ctypes.c_long
    answer: int = _LIBC.syscall(ctypes.c_long(number or 0), *given)
    return answer


def _closed(fd: int) -> int:
    if fd >= 0:
        _LIBC.close(fd)
    return fd


def _opened(path: bytes, flags: int = os.O_RDONLY) -> int:
    return _closed(_syscall("openat", _AT_FDCWD, path, flags, 0o600))


def _fork() -> int:
    # Python's own: after one by the C library, the child's interpreter would wait for its parent's threads.
    try:
        pid = os.fork()
    except OSError as error:
        ctypes.set_errno(error.errno or 0)
        return -1
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def _pair(call: Callable[[object], int]) -> int:
    fds = (ctypes.c_int * 2)()
    answer = call(fds)
    if answer == 0:
        for fd in fds:
            _LIBC.close(fd)
    return answer


def _mmap(protection: int, flags: int) -> int:
    answer: int = _LIBC.mmap(None, ctypes.c_size_t(4096), protection, flags, -1, ctypes.c_long(0))
    if answer != -1:
        _LIBC.munmap(ctypes.c_void_p(answer), ctypes.c_size_t(4096))
    return answer


def _protect(*call: str) -> int:
    page = _LIBC.mmap(None, ctypes.c_size_t(4096), _PROT_READ, _PRIVATE_ANONYMOUS, -1, ctypes.c_long(0))
    more = [-1] if call == ("pkey_mprotect",) else []
    answer = _syscall(*call, page, 4096, _PROT_READ | _PROT_EXEC, *more)
    _LIBC.munmap(ctypes.c_void_p(page), ctypes.c_size_t(4096))
    return answer


def _words(*values: int) -> object:
    return (ctypes.c_uint64 * len(values))(*values)


ACTS = {
    # Files
    "open a file": Act(lambda: _opened(b"/etc/passwd"), "EACCES", DONE),
    "open a file to write": Act(lambda: _opened(_NOWHERE, os.O_WRONLY | os.O_CREAT), "EACCES", "ENOENT"),
    "open the root": Act(lambda: _opened(b"/"), "EACCES", DONE),
    "open /dev/kvm": Act(lambda: _opened(b"/dev/kvm", os.O_RDWR), "EACCES", DONE),
    "open the own memory": Act(lambda: _opened(b"/proc/self/mem"), "EACCES", DONE),
    "open the environment": Act(lambda: _opened(b"/proc/self/environ"), "EACCES", DONE),
    "openat2": Act(
        lambda: _closed(_syscall("openat2", _AT_FDCWD, b"/etc/passwd", _words(0, 0, 0), 24)), "EACCES", DONE
    ),
    "open by handle": Act(lambda: _syscall("open_by_handle_at", _NO_FD, _words(8, 0), 0), "EPERM", "EBADF"),
    "look at a file": Act(lambda: _syscall("faccessat", _AT_FDCWD, b"/etc/passwd", os.R_OK), "EACCES", DONE),
    "statx": Act(lambda: _syscall("statx", _AT_FDCWD, b"/", 0, 1, _words(*[0] * 32)), "EACCES", DONE),
    "statfs": Act(lambda: _syscall("statfs", b"/", _words(*[0] * 32)), "EACCES", DONE),
    "read a link": Act(
        lambda: min(0, _syscall("readlinkat", _AT_FDCWD, b"/proc/self/exe", _words(*[0] * 32), 256)),
        "EACCES",
        DONE,
    ),
    "list a directory": Act(lambda: _syscall("getdents64", _NO_FD, _words(0), 8), "EPERM", "EBADF"),
    "where am I": Act(lambda: _syscall("getcwd", _words(*[0] * 512), 4096), "EACCES", DONE),
    "go elsewhere": Act(lambda: _syscall("chdir", b"/"), "EACCES", DONE),
    "change the root": Act(lambda: _syscall("chroot", _NOWHERE), "EACCES", "ENOENT"),
    "make a directory": Act(lambda: _syscall("mkdirat", _AT_FDCWD, _NOWHERE, 0o700), "EACCES", "ENOENT"),
    "make a device": Act(
        lambda: _syscall("mknodat", _AT_FDCWD, _NOWHERE, 0o20600, 0x103), "EACCES", "ENOENT"
    ),
    "make a link": Act(lambda: _syscall("symlinkat", b"x", _AT_FDCWD, _NOWHERE), "EACCES", "ENOENT"),
    "make a hard link": Act(
        lambda: _syscall("linkat", _AT_FDCWD, b"/etc/passwd", _AT_FDCWD, _NOWHERE, 0), "EACCES", "ENOENT"
    ),
    "rename": Act(
        lambda: _syscall("renameat2", _AT_FDCWD, _NOWHERE, _AT_FDCWD, _NOWHERE, 0), "EACCES", "ENOENT"
    ),
    "unlink": Act(lambda: _syscall("unlinkat", _AT_FDCWD, _NOWHERE, 0), "EACCES", "ENOENT"),
    "change a mode": Act(lambda: _syscall("fchmodat", _AT_FDCWD, _NOWHERE, 0o777), "EACCES", "ENOENT"),
    "change an owner": Act(lambda: _syscall("fchownat", _AT_FDCWD, _NOWHERE, 0, 0, 0), "EACCES", "ENOENT"),
    "change times": Act(lambda: _syscall("utimensat", _AT_FDCWD, _NOWHERE, None, 0), "EACCES", "ENOENT"),
    "truncate": Act(lambda: _syscall("truncate", _NOWHERE, 0), "EACCES", "ENOENT"),
    "set an attribute": Act(
        lambda: _syscall("setxattr", _NOWHERE, b"user.x", b"x", 1, 0), "EACCES", "ENOENT"
    ),
    "mount": Act(lambda: _syscall("mount", None, _NOWHERE, None, 0, None), "EACCES", "ENOENT"),
    "unmount": Act(lambda: _syscall("umount2", _NOWHERE, 0), "EACCES", "ENOENT"),
    "pivot_root": Act(lambda: _syscall("pivot_root", _NOWHERE, _NOWHERE), "EACCES", "ENOENT"),
    "fsopen": Act(lambda: _syscall("fsopen", None, 0), "EPERM", "EFAULT"),
    "watch files": Act(lambda: _closed(_syscall("inotify_init1", 0)), "EPERM", DONE),
    "fanotify": Act(lambda: _closed(_syscall("fanotify_init", 0, 0)), "EPERM", DONE),
    # Processes
    "execute a file": Act(lambda: _syscall("execve", _NOWHERE, None, None), "EACCES", "ENOENT"),
    "execveat": Act(lambda: _syscall("execveat", _AT_FDCWD, _NOWHERE, None, None, 0), "EACCES", "ENOENT"),
    "fork": Act(_fork, "EPERM", DONE),
    "clone": Act(lambda: _syscall("clone", _SIGCHLD | _CLONE_SIGHAND, 0, 0, 0, 0), "EPERM", "EINVAL"),
    "clone with a namespace": Act(
        lambda: _syscall("clone", _CLONE_THREAD_FLAGS | _CLONE_NEWUSER, 0, 0, 0, 0), "EPERM", "EINVAL"
    ),
    "clone3": Act(lambda: _syscall("clone3", None, 0), "ENOSYS", "EINVAL"),
    "signal oneself": Act(lambda: _LIBC.kill(os.getpid(), 0), "EPERM", DONE),
    "signal all": Act(lambda: _LIBC.kill(-1, 0), "EPERM", DONE),
    "signal another's thread": Act(lambda: _syscall("tgkill", 1, 1, 0), "EPERM", DONE),
    "tkill": Act(lambda: _syscall("tkill", os.getpid(), 0), "EPERM", DONE),
    "rt_sigqueueinfo": Act(
        lambda: _syscall("rt_sigqueueinfo", os.getpid(), 0, _words(*[0] * 16)), "EPERM", DONE
    ),
    "pidfd_open": Act(lambda: _closed(_syscall("pidfd_open", os.getpid(), 0)), "EPERM", DONE),
    "pidfd_getfd": Act(lambda: _syscall("pidfd_getfd", _NO_FD, 0, 0), "EPERM", "EBADF"),
    "pidfd_send_signal": Act(lambda: _syscall("pidfd_send_signal", _NO_FD, 0, None, 0), "EPERM", "EBADF"),
    "ptrace": Act(lambda: _syscall("ptrace", 16, os.getpid(), 0, 0), "EPERM", "EPERM"),
    "read another's memory": Act(
        lambda: _syscall("process_vm_readv", os.getpid(), None, 0, None, 0, 0), "EPERM", DONE
    ),
    "write another's memory": Act(
        lambda: _syscall("process_vm_writev", os.getpid(), None, 0, None, 0, 0), "EPERM", DONE
    ),
    "process_madvise": Act(lambda: _syscall("process_madvise", _NO_FD, None, 0, 0, 0), "EPERM", "EBADF"),
    "kcmp": Act(lambda: _syscall("kcmp", os.getpid(), os.getpid(), 0, 0, 0), "EPERM", DONE),
    "change priority": Act(lambda: _syscall("setpriority", 0, 0, 0), "EPERM", DONE),
    "change affinity": Act(lambda: _syscall("sched_setaffinity", 0, 8, None), "EPERM", "EFAULT"),
    "change limits": Act(lambda: _syscall("prlimit64", 0, 7, None, _words(0, 0)), "EPERM", DONE),
    # Privileges, namespaces, the host
    "be a user": Act(lambda: _syscall("setuid", os.geteuid()), "EPERM", DONE),
    "setresuid": Act(lambda: _syscall("setresuid", -1, -1, -1), "EPERM", DONE),
    "setgroups": Act(lambda: _syscall("setgroups", -1, None), "EPERM", "EINVAL"),
    "capset": Act(lambda: _syscall("capset", None, None), "EPERM", "EFAULT"),
    "prctl": Act(lambda: _LIBC.prctl(3, 0, 0, 0, 0), "EPERM", DONE),
    "unshare": Act(lambda: _syscall("unshare", 0), "EPERM", DONE),
    "setns": Act(lambda: _syscall("setns", _NO_FD, 0), "EPERM", "EBADF"),
    "personality": Act(lambda: _syscall("personality", 0xFFFFFFFF), "EPERM", DONE),
    "seccomp": Act(lambda: _syscall("seccomp", 2, 0, None), "EPERM", "EFAULT"),
    "landlock": Act(lambda: _syscall("landlock_create_ruleset", None, 0, 1), "EPERM", DONE),
    "bpf": Act(lambda: _syscall("bpf", 0, None, 0), "EPERM", "EINVAL"),
    "perf_event_open": Act(lambda: _syscall("perf_event_open", None, 0, -1, -1, 0), "EPERM", "EFAULT"),
    "userfaultfd": Act(lambda: _closed(_syscall("userfaultfd", 1)), "EPERM", DONE),
    "io_uring_setup": Act(lambda: _closed(_syscall("io_uring_setup", 1, _words(*[0] * 15))), "EPERM", DONE),
    "io_uring_enter": Act(lambda: _syscall("io_uring_enter", _NO_FD, 0, 0, 0, None, 0), "EPERM", "EBADF"),
    "io_setup": Act(lambda: _syscall("io_setup", 0, _words(0)), "EPERM", "EINVAL"),
    "keyctl": Act(lambda: min(0, _syscall("keyctl", 0, -3, 0)), "EPERM", DONE),
    "add_key": Act(lambda: _syscall("add_key", None, None, None, 0, 0), "EPERM", "EFAULT"),
    "request_key": Act(lambda: _syscall("request_key", None, None, None, 0), "EPERM", "EFAULT"),
    "init_module": Act(lambda: _syscall("init_module", None, 0, None), "EPERM", "ENOEXEC"),
    "delete_module": Act(lambda: _syscall("delete_module", None, 0), "EPERM", "EFAULT"),
    "kexec": Act(lambda: _syscall("kexec_load", 0, 17, None, 0), "EPERM", "EINVAL"),
    "reboot": Act(lambda: _syscall("reboot", 0, 0, 0, None), "EPERM", "EINVAL"),
    "kernel log": Act(lambda: min(0, _syscall("syslog", 10, None, 0)), "EPERM", DONE),
    "sethostname": Act(lambda: _syscall("sethostname", None, -1), "EPERM", "EINVAL"),
    "set the clock": Act(lambda: _syscall("clock_settime", 0, None), "EPERM", "EFAULT"),
    "accounting": Act(lambda: _syscall("acct", _NOWHERE), "EPERM", "ENOENT"),
    # Memory
    "map code": Act(lambda: _mmap(_PROT_READ | _PROT_EXEC, _PRIVATE_ANONYMOUS), "EPERM", DONE),
    "map writable code": Act(
        lambda: _mmap(_PROT_READ | _PROT_WRITE | _PROT_EXEC, _SHARED_ANONYMOUS), "EPERM", DONE
    ),
    "make code of data": Act(lambda: _protect("mprotect"), "EPERM", DONE),
    "make code of data with a key": Act(lambda: _protect("pkey_mprotect"), "EPERM", DONE),
    "lock memory": Act(lambda: _syscall("mlock", None, 0), "EPERM", DONE),
    "shared memory": Act(lambda: _syscall("shmget", 0, 0, 0), "EPERM", "EINVAL"),
    "memfd_create": Act(lambda: _closed(_syscall("memfd_create", b"x", 0)), "EPERM", DONE),
    # Sockets and descriptors
    "TCP socket": Act(lambda: _closed(_LIBC.socket(2, 1, 0)), "EPERM", DONE),
    "UNIX socket": Act(lambda: _closed(_LIBC.socket(1, 1, 0)), "EPERM", DONE),
    "netlink socket": Act(lambda: _closed(_LIBC.socket(16, 3, 0)), "EPERM", DONE),
    "socket pair": Act(lambda: _pair(lambda fds: _LIBC.socketpair(1, 1, 0, fds)), "EPERM", DONE),
    "connect": Act(lambda: _LIBC.connect(_NO_FD, None, 0), "EPERM", "EBADF"),
    "bind": Act(lambda: _LIBC.bind(_NO_FD, None, 0), "EPERM", "EBADF"),
    "listen": Act(lambda: _LIBC.listen(_NO_FD, 1), "EPERM", "EBADF"),
    "pipe": Act(lambda: _pair(lambda fds: _syscall("pipe2", fds, 0)), "EPERM", DONE),
    "dup": Act(lambda: _closed(_LIBC.dup(0)), "EPERM", DONE),
    "splice": Act(lambda: _syscall("splice", _NO_FD, None, _NO_FD, None, 1, 0), "EPERM", "EBADF"),
    "copy_file_range": Act(
        lambda: _syscall("copy_file_range", _NO_FD, None, _NO_FD, None, 1, 0), "EPERM", "EBADF"
    ),
    "F_DUPFD": Act(lambda: _closed(_LIBC.fcntl(0, _F_DUPFD, 3)), "EPERM", DONE),
    "F_SETOWN": Act(lambda: _LIBC.fcntl(0, _F_SETOWN, 0), "EPERM", DONE),
    "F_NOTIFY": Act(lambda: _LIBC.fcntl(0, _F_NOTIFY, 0), "EPERM", DONE),
    "F_SETLEASE": Act(lambda: _LIBC.fcntl(0, _F_SETLEASE, 2), "EPERM", "EINVAL"),
    # ioctls
    "type into the terminal": Act(lambda: _LIBC.ioctl(0, _TIOCSTI, b"x"), "EPERM", "ENOTTY"),
    "paste into the console": Act(lambda: _LIBC.ioctl(0, _TIOCLINUX, b"\3"), "EPERM", "ENOTTY"),
    "take the terminal": Act(lambda: _LIBC.ioctl(0, _TIOCSCTTY, 0), "EPERM", "ENOTTY"),
    "another VM": Act(lambda: _closed(_LIBC.ioctl(descriptors["kvm"], _KVM_CREATE_VM, 0)), "EPERM", DONE),
    "another vCPU": Act(lambda: _LIBC.ioctl(descriptors["vm"], _KVM_CREATE_VCPU, 1 << 20), "EPERM", "EINVAL"),
    "more memory for the guest": Act(
        lambda: _LIBC.ioctl(descriptors["vm"], _KVM_SET_USER_MEMORY_REGION, None), "EPERM", "EFAULT"
    ),
}


def tried() -> dict[str, str]:
    """What each of ACTS came to in this thread: DONE, or the name of the errno."""
    outcomes = {}
    for name, act in ACTS.items():
        ctypes.set_errno(0)
        answer = act.call()
        outcomes[name] = errno.errorcode[ctypes.get_errno()] if answer == -1 else DONE
    return outcomes
