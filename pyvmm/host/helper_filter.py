"""The system calls that a helper program is refused: what its work never needs and an attacker would like.

A helper is a program of others, such as qemu-nbd, whose C library and whose versions use calls that we do not
know: so what is refused is listed, unlike for our own processes (``host/vm_filter.py``). Its files are
Landlock's to limit.

Sources: seccomp(2), seccomp_unotify(2), Linux include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, start_new_thread
from ctypes import c_char_p, create_string_buffer, get_errno
from errno import ENOSYS
from struct import Struct

from pyvmm.host import seccomp
from pyvmm.host.libc import function, ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

#: Other processes, the kernel's large and rarely needed interfaces, namespaces and mounts, the host itself.
CALLS = (
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "kcmp",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "kill",
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "keyctl",
    "add_key",
    "request_key",
    "fanotify_init",
    "open_by_handle_at",
    "personality",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "mount_setattr",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "syslog",
    "vhangup",
    "sethostname",
    "setdomainname",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
)
#: Besides, of a program that starts no other, connects to nothing and listens on what it was given.
ALONE = ("fork", "vfork", "clone", "socket", "connect", "bind")
#: The C library takes clone, whose flags a filter can see, where there is no clone3.
_ANSWERS = {"clone3": ENOSYS}
_EXECUTING = ("execve", "execveat")

#: ``struct seccomp_notif { __u64 id; __u32 pid; __u32 flags; struct seccomp_data data; }``
_NOTIF_SIZE = 80
#: ``struct seccomp_notif_resp { __u64 id; __s64 val; __s32 error; __u32 flags; }``
_RESPONSE = Struct("=QqiI")
_NOTIF_RECV, _NOTIF_SEND = 0xC0502100, 0xC0182101
_FLAG_CONTINUE = 1


def execute(command: Sequence[str], *, alone: bool) -> NoReturn:
    """Become *command*, under the filter; without one on a kernel that takes none.

    :param alone: it starts no other program and makes no socket. That it executes none is for a filter to
        say that lets this very call pass: the call is left to a thread, which lets it go on and is gone with
        it, as is the only descriptor by which another could be. From kernel 5.5 on, where no listener is in
        force already.

    Raises OSError when the program cannot be executed.
    """
    try:
        machine = seccomp.machine()
        if not alone:
            seccomp.enforce(seccomp.denial(CALLS, machine, answers={}))
        else:
            _enforce_and_pass_one(machine)
    except seccomp.SeccompError:
        pass
    _execute(command)


def _enforce_and_pass_one(machine: str) -> None:
    """The filter for a program that is alone; one execve passes. Raises SeccompError."""
    calls = (*CALLS, *ALONE)
    listener = [-1]
    installed = allocate_lock()
    installed.acquire()

    def let_pass() -> None:
        with installed:
            pass
        notif = create_string_buffer(_NOTIF_SIZE)
        if listener[0] >= 0 and ioctl(listener[0], _NOTIF_RECV, notif) == 0:
            identifier = int.from_bytes(notif.raw[:8], "little")
            answer = _RESPONSE.pack(identifier, 0, 0, _FLAG_CONTINUE)
            ioctl(listener[0], _NOTIF_SEND, create_string_buffer(answer, len(answer)))

    start_new_thread(let_pass, ())  # before there is a filter: it has none
    try:
        code = seccomp.denial(calls, machine, answers=_ANSWERS, asked=_EXECUTING)
        listener[0] = seccomp.enforce_here(code)
    except seccomp.SeccompError:
        seccomp.enforce(seccomp.denial(calls, machine, answers=_ANSWERS))
    finally:
        installed.release()


def _execute(command: Sequence[str]) -> NoReturn:
    """As os.execv, but other Python threads run meanwhile."""
    arguments = (c_char_p * (len(command) + 1))(*map(os.fsencode, command), None)
    environment = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    variables = (c_char_p * (len(environment) + 1))(*environment, None)
    function("execve")(os.fsencode(command[0]), arguments, variables)
    number = get_errno()
    raise OSError(number, os.strerror(number), command[0])
