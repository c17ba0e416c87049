"""The system calls of a running VM: its filter allows these, and what they may be given.

Sources: Linux include/uapi/linux/kvm.h, vhost.h, if_tun.h, include/uapi/asm-generic/ioctls.h, fcntl.h. All
that a machine opens, makes or starts but threads is there before it runs, so nothing here takes a path, makes
a socket or a process, or another VM.
"""

from __future__ import annotations

from errno import EACCES, ENOSYS

from pyvmm.host import seccomp
from pyvmm.host.syscalls import PATH_CALLS

#: The most frequent come first.
CALLS = (
    "ioctl",
    "futex",
    "epoll_wait",
    "epoll_pwait",
    "read",
    "write",
    "readv",
    "writev",
    "preadv",
    "pwritev",
    "pread64",
    "pwrite64",
    "preadv2",
    "pwritev2",
    "io_submit",
    "io_getevents",
    "io_destroy",
    "clock_gettime",
    "rt_sigtimedwait",
    "tgkill",
    "fdatasync",
    "fsync",
    "fallocate",
    "lseek",
    "fstat",
    "recvfrom",
    "sendto",
    "recvmsg",
    "sendmsg",
    "accept4",
    "shutdown",
    "getsockname",
    "getpeername",
    "getsockopt",
    "setsockopt",
    "poll",
    "ppoll",
    "epoll_ctl",
    "epoll_create1",
    "eventfd2",
    "timerfd_create",
    "timerfd_settime",
    "timerfd_gettime",
    "close",
    "fcntl",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "mincore",
    "mremap",
    "brk",
    "clock_getres",
    "clock_nanosleep",
    "nanosleep",
    "getrandom",
    "uname",
    "getpid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "gettid",
    "sched_yield",
    "sched_getaffinity",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigpending",
    "rt_sigreturn",
    "sigaltstack",
    "restart_syscall",
    "clone",
    "set_robust_list",
    "rseq",
    "exit",
    "exit_group",
)

#: Requests of ioctl(2), on both architectures. Those of KVM are for a VM that is there.
IOCTLS = {
    "KVM_RUN": 0x0000AE80,
    "KVM_IRQ_LINE": 0x4008AE61,
    "KVM_IOEVENTFD": 0x4040AE79,
    "KVM_IRQFD": 0x4020AE76,
    "KVM_SIGNAL_MSI": 0x4020AEA5,
    "KVM_REGISTER_COALESCED_MMIO": 0x4010AE67,
    "KVM_UNREGISTER_COALESCED_MMIO": 0x4010AE68,
    "KVM_SET_GSI_ROUTING": 0x4008AE6A,
    "KVM_SET_SIGNAL_MASK": 0x4004AE8B,
    "KVM_CHECK_EXTENSION": 0x0000AE03,
    "KVM_GET_DIRTY_LOG": 0x4010AE42,
    "KVM_CLEAR_DIRTY_LOG": 0xC018AEC0,
    "KVM_GET_STATS_FD": 0x0000AECE,
    "KVM_GET_MP_STATE": 0x8004AE98,
    "KVM_SET_MP_STATE": 0x4004AE99,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F,
    "KVM_SET_VCPU_EVENTS": 0x4040AEA0,
    "KVM_GET_ONE_REG": 0x4010AEAB,
    "KVM_SET_ONE_REG": 0x4010AEAC,
    "KVM_GET_REG_LIST": 0xC008AEB0,
    "KVM_GET_DEVICE_ATTR": 0x4018AEE2,
    "KVM_SET_DEVICE_ATTR": 0x4018AEE1,
    "KVM_HAS_DEVICE_ATTR": 0x4018AEE3,
    "KVM_TRANSLATE": 0xC018AE85,
    "FIONBIO": 0x5421,
    "FIONREAD": 0x541B,
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "TIOCGWINSZ": 0x5413,
    "SIOCETHTOOL": 0x8946,
    "TUNSETOFFLOAD": 0x400454D0,
    "TUNSETVNETHDRSZ": 0x400454D8,
    "TUNSETVNETLE": 0x400454DC,
    "TUNSETQUEUE": 0x400454D9,
    "TUNSETCARRIER": 0x400454E2,
    "VHOST_GET_FEATURES": 0x8008AF00,
    "VHOST_GET_VRING_BASE": 0xC008AF12,
    "VHOST_NET_SET_BACKEND": 0x4008AF30,
    "VHOST_SET_FEATURES": 0x4008AF00,
    "VHOST_SET_MEM_TABLE": 0x4008AF03,
    "VHOST_SET_VRING_ADDR": 0x4028AF11,
    "VHOST_SET_VRING_BASE": 0x4008AF12,
    "VHOST_SET_VRING_CALL": 0x4008AF21,
    "VHOST_SET_VRING_KICK": 0x4008AF20,
    "VHOST_SET_VRING_NUM": 0x4008AF10,
    "VHOST_VSOCK_SET_GUEST_CID": 0x4008AF60,
    "VHOST_VSOCK_SET_RUNNING": 0x4004AF61,
}
#: Those of x86-64 alone.
X86_IOCTLS = {
    "KVM_KVMCLOCK_CTRL": 0x0000AEAD,
    "KVM_NMI": 0x0000AE9A,
    "KVM_GET_CLOCK": 0x8030AE7C,
    "KVM_GET_IRQCHIP": 0xC208AE62,
    "KVM_GET_PIT2": 0x8070AE9F,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_GET_SREGS2": 0x8140AECC,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_GET_FPU": 0x81A0AE8C,
    "KVM_GET_LAPIC": 0x8400AE8E,
    "KVM_GET_CPUID2": 0xC008AE91,
    "KVM_GET_DEBUGREGS": 0x8080AEA1,
    "KVM_GET_TSC_KHZ": 0x0000AEA3,
    "KVM_GET_XSAVE": 0x9000AEA4,
    "KVM_GET_XSAVE2": 0x9000AECF,
    "KVM_GET_XCRS": 0x8188AEA6,
}
#: Commands of fcntl(2): duplicates, flags, and locks of what is open.
FCNTLS = {
    "F_GETFD": 1,
    "F_SETFD": 2,
    "F_GETFL": 3,
    "F_SETFL": 4,
    "F_DUPFD_CLOEXEC": 1030,
    "F_SETLK": 6,
    "F_OFD_GETLK": 36,
    "F_OFD_SETLK": 37,
}
#: Options of sockets that are set: room for a link's frames, and how long ``connect`` waits (socket(7)).
_SO_SNDBUF, _SO_SNDTIMEO = 7, 21
#: Of these calls, by name, the argument with that index is one of these numbers.
NUMBERS = {
    "ioctl": (1, (*IOCTLS.values(), *X86_IOCTLS.values())),
    "fcntl": (1, tuple(FCNTLS.values())),
    "setsockopt": (2, (_SO_SNDBUF, _SO_SNDTIMEO)),
}
#: What fails otherwise than with EPERM: a file that cannot be opened is nothing new to a program, and the C
#: library takes clone, whose flags a filter can see, where there is no clone3.
ERRORS = {**dict.fromkeys(PATH_CALLS, EACCES), "clone3": ENOSYS}


#: Besides, where files stay reachable: their names are looked up, what is in them is used.
FILE_CALLS = (
    "openat",
    "open",
    "newfstatat",
    "stat",
    "lstat",
    "statx",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getdents64",
    "getcwd",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
    "flock",
    "socket",
    "connect",
)
_AF_UNIX = 1


def program(machine: str, pid: int, *, files: bool = False, kill: bool = False) -> bytes:
    """The filter of a running VM in process *pid*, which may signal its own threads.

    :param machine: ``x86_64`` or ``aarch64``
    :param files: names of files may be given, and UNIX sockets connected to
    :param kill: what is not allowed kills the process instead of failing
    """
    only = {**NUMBERS, "tgkill": (0, (pid,)), "socket": (0, (_AF_UNIX,))}
    calls = (*CALLS, *FILE_CALLS) if files else CALLS
    return seccomp.program(calls, machine, only=only, errors=ERRORS, kill=kill)
