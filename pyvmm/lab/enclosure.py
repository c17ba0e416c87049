"""Starts QEMU with a root directory that lacks what ``exposure`` hides, and with few of root's capabilities.

A program of its own, since it works on its process: it enters a mount namespace (for a user other than root
a user namespace too), makes a root of links to a copy of this machine's tree, and becomes QEMU. The emulated
host mounts the copy, ``EXPORT``; QEMU's sockets are in ``SOCKETS``. Where namespaces are not allowed QEMU has
the whole tree, and ``refused`` says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from ctypes import c_char_p, c_ulong, get_errno
from pathlib import Path

from pyvmm.host import interpreter
from pyvmm.host.libc import function
from pyvmm.host.namespaces import NamespaceError, change_root, own_mounts, own_users
from pyvmm.host.privileges import end_with_parent, no_bounding_capabilities, no_new_privileges
from pyvmm.lab import exposure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN = "/.pyvmm-lab"
#: Where the new root has the tree that the emulated host sees, and the machine's directory.
EXPORT = f"{_OWN}/tree"
SOCKETS = f"{_OWN}/sockets"
#: Of devices QEMU has those that libraries may open.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
#: In the machine's directory: where the new root is mounted, and why it is not.
_ROOT = "root"
_REFUSED = "refused"

# Sources: Linux include/uapi/linux/mount.h, capability.h.
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 19
_MNT_DETACH = 2
#: CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID: root's rights to files, for 9p.
_KEPT_CAPABILITIES = frozenset(range(5))


def enclosed(
    command: Sequence[str], fallback: Sequence[str], directory: Path, exposed: Sequence[str]
) -> list[str]:
    """The command that becomes *command* in the new root or, where there can be none, *fallback*.

    :param directory: the machine's, which is below ``SOCKETS`` then
    :param exposed: hidden paths that are to be seen all the same
    """
    task = {
        "command": [*command],
        "fallback": [*fallback],
        "directory": str(directory),
        "exposed": [*exposed],
    }
    return interpreter.command(__name__, task)


def refused(directory: Path) -> str:
    """Why the machine in *directory* runs with the whole tree; empty when it does not."""
    try:
        return (directory / _REFUSED).read_text().strip()
    except OSError:
        return ""


def main(text: str) -> None:
    """Make the root for the task *text*, made by ``enclosed``, and become its command."""
    task = json.loads(text)
    parent = os.getppid()
    directory = task["directory"]
    command = task["command"]
    Path(directory, _REFUSED).unlink(missing_ok=True)
    try:
        _enter_namespaces()
        root = _new_root(directory, task["exposed"])
        change_root(root)
    except (OSError, NamespaceError) as error:
        reason = str(error) if isinstance(error, NamespaceError) else f"{error.filename}: {error.strerror}"
        print(f"pyvmm: QEMU has no root of its own: {reason}", flush=True)
        Path(directory, _REFUSED).write_text(reason)
        command = task["fallback"]
    with contextlib.suppress(OSError):  # a user who has none may not
        no_bounding_capabilities(_KEPT_CAPABILITIES)
    no_new_privileges()
    end_with_parent()  # last: a new user namespace forgets it
    if os.getppid() == parent:
        os.execv(command[0], command)


def _enter_namespaces() -> None:
    """A mount namespace in which nothing that is mounted here is seen outside.

    Raises OSError, NamespaceError.
    """
    if os.geteuid():
        own_users()
    own_mounts()
    _mount(None, "/", _MS_REC | _MS_SLAVE)


def _new_root(directory: str, exposed: Sequence[str]) -> str:
    """Make the new root and give its path. Raises OSError."""
    root = os.path.join(directory, _ROOT)
    os.makedirs(root, exist_ok=True)
    _mount("tmpfs", root, 0, "tmpfs", "mode=0755,size=16m")
    tree, sockets, void = root + EXPORT, root + SOCKETS, f"{root}{_OWN}/void"
    for path in (tree, sockets, void, f"{root}/dev", f"{root}/proc/self"):
        os.makedirs(path)
    _mount("/", tree, _MS_BIND | _MS_REC)
    _checked("umount2", c_char_p(os.fsencode(tree + root)), _MNT_DETACH)
    covers = [*exposure.STATE, *exposure.hidden()]
    for number, (path, covered) in enumerate(exposure.plan(covers, exposed)):
        # Each has an inode of its own: a directory that Linux' 9p meets at two places is moved to the second.
        source = f"{void}/{number}" if covered else os.path.realpath(path)
        try:
            _make(source if covered else tree + path, like=path)
            _mount(source, tree + path, _MS_BIND | _MS_REC)
        except FileNotFoundError:
            pass  # removed meanwhile
    _mount(directory, sockets, _MS_BIND)
    for path in _DEVICES:
        _make(root + path, like=path)
        _mount(path, root + path, _MS_BIND)
    # QEMU changes modes of files by /proc/self/fd.
    _mount(f"/proc/{os.getpid()}", f"{root}/proc/self", _MS_BIND)
    for name in os.listdir("/"):
        if f"/{name}" not in exposure.STATE and not os.path.lexists(f"{root}/{name}"):
            os.symlink(f"{EXPORT}/{name}", f"{root}/{name}")
    _mount(None, root, _MS_REMOUNT | _MS_RDONLY)
    return root


def _make(path: str, like: str) -> None:
    """Make the directories above *path* and at it an empty directory, or file, as *like* is one."""
    directory = stat.S_ISDIR(os.stat(like).st_mode)
    os.makedirs(path if directory else os.path.dirname(path), exist_ok=True)
    if not directory:
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))


def _mount(source: str | None, target: str, flags: int, kind: str = "", options: str = "") -> None:
    texts = [os.fsencode(text) if text else None for text in (source, target, kind, options)]
    _checked(
        f"mount at {target}", *map(c_char_p, texts[:3]), c_ulong(flags), c_char_p(texts[3]), name="mount"
    )


def _checked(what: str, *arguments: object, name: str = "") -> None:
    if function(name or what)(*arguments) < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), what)
