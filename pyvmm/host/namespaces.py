"""A process leaves the host's namespaces and file system, for good.

Sources: unshare(2), user_namespaces(7), mount_namespaces(7), pivot_root(2). The process must have one thread:
only such a one gets a user namespace, and other threads would keep the host's.
"""

from __future__ import annotations

import os
from ctypes import c_char_p, c_long, c_ulong, get_errno

from pyvmm.host.libc import function
from pyvmm.host.syscalls import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
#: mount(2): MS_RDONLY, NOSUID, NODEV, NOEXEC; MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE.
_SEALED = 1 | 2 | 4 | 8
_REMOUNT, _BIND, _REC, _PRIVATE = 0x20, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
#: One page, one inode: the root directory itself, which nobody may read.
_EMPTY = b"size=4096,nr_inodes=1,mode=0"
#: A root directory with the way to some paths: everybody may walk it, nobody may make anything.
_WAYS, _WAY_MODE = b"size=256k,mode=0555", 0o555
#: A directory that is always there, to mount what becomes the root.
_MOUNT_POINT = b"/proc"


class NamespaceError(Exception):
    """This host does not allow it; the sentence says what it answered."""


def leave_host() -> None:
    """New namespaces for mounts, network, IPC, host name and control groups; without root a user one before.

    There are no interfaces in it but a loopback that is down. Without root, the process has all capabilities
    over its namespaces afterwards. Raises NamespaceError; the process is as it was then, but for a user
    namespace.
    """
    if os.geteuid():
        own_users()
    _unshare(
        "mount, network, IPC, UTS and cgroup namespaces",
        _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWCGROUP,
    )


def own_users() -> None:
    """A user namespace: the process keeps its user and group, and has all capabilities over its namespaces.

    Files of other users appear as nobody's. Raises NamespaceError.
    """
    user, group = os.geteuid(), os.getegid()
    _unshare("user namespace", _CLONE_NEWUSER)
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
    except OSError as error:
        raise NamespaceError(f"user namespace: {name}: {error.strerror}") from None


def own_mounts() -> None:
    """A mount namespace. Raises NamespaceError."""
    _unshare("mount namespace", _CLONE_NEWNS)


def change_root(path: str | bytes) -> None:
    """Make the mount point *path* the root directory; the old root is detached. Raises NamespaceError."""
    os.chdir(path)
    # The old root lies on the new one then, at the same place (pivot_root(2), "pivot_root(".", ".")").
    _checked("root directory: pivot_root", function("syscall")(c_long(number("pivot_root")), b".", b"."))
    _checked("root directory: umount", function("umount2")(b".", _MNT_DETACH))
    os.chdir("/")


def empty_root(paths: Sequence[str] = ()) -> None:
    """Give the process an empty root directory, read-only; the host's is detached, ``leave_host`` was before.

    Raises NamespaceError; the root is as it was then.

    :param paths: absolute names of what is in it all the same, and of nothing below /proc; the current
        directory stays where the new root has it
    """
    mount, here = function("mount"), os.getcwd() if paths else "/"
    options, flags = (_WAYS, _SEALED & ~1) if paths else (_EMPTY, _SEALED)
    _checked("empty root: mount private", mount(None, b"/", None, c_ulong(_REC | _PRIVATE), None))
    _checked(
        "empty root: mount tmpfs", mount(b"none", _MOUNT_POINT, b"tmpfs", c_ulong(flags), c_char_p(options))
    )
    for path in sorted(map(os.fsencode, paths)):  # a directory comes before what lies in it
        try:
            _make_way(path)
        except OSError as error:
            raise NamespaceError(f"empty root: {os.fsdecode(path)}: {error.strerror}") from None
        bound = mount(path, _MOUNT_POINT + path, None, c_ulong(_BIND | _REC), None)
        _checked(f"empty root: mount {os.fsdecode(path)}", bound)
    if paths:
        again = mount(None, _MOUNT_POINT, None, c_ulong(_REMOUNT | _BIND | _SEALED), None)
        _checked("empty root: mount read-only", again)
    change_root(_MOUNT_POINT)
    try:
        os.chdir(here)
    except OSError:
        pass  # it is not in the new root


def _make_way(path: bytes) -> None:
    """Make what *path* is to be mounted on, and the directories to it, in the new root. Raises OSError."""
    way = _MOUNT_POINT
    *folders, name = path.strip(b"/").split(b"/")
    for folder in folders:
        way += b"/" + folder
        if not os.path.isdir(way):
            os.mkdir(way)
            os.chmod(way, _WAY_MODE)
    way += b"/" + name
    if os.path.lexists(way):
        return
    if os.path.isdir(path):
        os.mkdir(way)
    else:
        os.close(os.open(way, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC))


def _unshare(what: str, flags: int) -> None:
    if function("unshare")(flags):
        raise NamespaceError(f"{what}: {os.strerror(get_errno())}")


def _checked(what: str, answer: int) -> None:
    if answer:
        raise NamespaceError(f"{what}: {os.strerror(get_errno())}")
