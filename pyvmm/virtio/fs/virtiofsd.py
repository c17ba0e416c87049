"""virtiofsd beside ours: the process that serves a directory, and the connection to it.

Debian 12 has virtiofsd, the program in C, in qemu-system-common; later it is a package of its own, in
Rust. Both take a listening socket by descriptor, and end when the connection does: it cannot outlive us.
"""

from __future__ import annotations

import os
import shutil
import socket

from pyvmm.backends.listener import private_pair
from pyvmm.host.child import FIRST_FD, Child, spawn
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.helper_connection import HelperConnection

#: Where Debian puts it, the newer first.
PROGRAMS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
#: Marks the program in C, whose options differ.
_IN_C = "/usr/lib/qemu/virtiofsd"
#: A read-only bind mount over the directory, in a mount namespace of virtiofsd's own: the host
#: itself refuses writes, whatever the guest does. The program in C has no option for that.
_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


class Virtiofsd(HelperConnection):
    """One that serves directory *path*; with *readonly* the host refuses every write.

    The guest's root has the rights of who started pyvmm, or, where that is root, of the directory's owner.
    ``open`` raises DeviceError when there is no virtiofsd, for what is no directory, for one of root's
    without *as_root* and for *as_root* by another user; BackendError when it cannot be connected to.

    :param as_root: the guest's root is this host's in the directory; for root alone
    """

    def __init__(self, path: str, readonly: bool = False, as_root: bool = False) -> None:
        super().__init__(
            lambda errors: _start(path, readonly, as_root, errors), f"--share {path}", "virtiofsd"
        )


def find_program() -> str:
    """The path of virtiofsd. Raises DeviceError."""
    for path in (*PROGRAMS, shutil.which("virtiofsd")):
        if path is not None and os.access(path, os.X_OK):
            return path
    raise DeviceError(
        "there is no virtiofsd on this host, which --share needs; install the package virtiofsd (Debian 12: "
        "qemu-system-common)"
    )


def command(
    program: str, path: str, readonly: bool, root: bool, owner: tuple[int, int] | None = None
) -> list[str]:
    """The arguments that start *program* for directory *path*, without those for the socket.

    :param root: it has root's rights
    :param owner: the user and group that it is to have, by a process of root's; None: this process's
    """
    arguments = [
        program,
        *(
            ("-f", "-o", "log_level=err", "-o", "sandbox=namespace", "-o", f"source={path}")
            if program == _IN_C
            else (f"--shared-dir={path}", "--sandbox=namespace")
        ),
    ]
    # Who is not root is root in a user namespace of his own: files are his, whatever the guest calls them.
    # virtiofsd in Rust makes that namespace itself.
    user = () if root or (program != _IN_C and not readonly) else ("--user", "--map-root-user")
    if readonly:
        arguments = ["unshare", *user, "--mount", "sh", "-c", _READ_ONLY, path, *arguments]
    elif user:
        arguments = ["unshare", *user, *arguments]
    if owner is None:
        return arguments
    return ["setpriv", f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups", "--", *arguments]


def _owner(path: str) -> tuple[int, int]:
    """The user that directory *path* belongs to, and that one's group. Raises DeviceError for root."""
    import pwd

    found = os.stat(path)
    try:
        group = pwd.getpwuid(found.st_uid).pw_gid
    except KeyError:  # of a user that only another host knows
        group = found.st_gid
    if not found.st_uid or not group:
        raise DeviceError(
            f"--share {path}: the directory is root's, as this process is, so the guest could leave programs "
            "there that run as root; give a directory of another user's, or as-root"
        )
    return found.st_uid, group


def _start(path: str, readonly: bool, as_root: bool, errors: int) -> tuple[socket.socket, Child]:
    """Run virtiofsd; a connection to it, made through a socket that nobody else ever sees."""
    if not os.path.isdir(path):
        raise DeviceError(f"--share {path} is not a directory; give one that exists")
    root = os.geteuid() == 0
    if as_root and not root:
        raise DeviceError(f"--share {path}: as-root is for root; leave it out, or start pyvmm as root")
    owner = _owner(path) if root and not as_root else None
    arguments = command(find_program(), path, readonly, as_root, owner)
    if "," in path and arguments[-1].startswith("source="):
        raise DeviceError(f"--share {path}: this virtiofsd takes no comma in a path; rename it")
    listener, sock = private_pair()
    with listener:
        try:
            process = spawn(
                [*arguments, f"--fd={FIRST_FD}"], fds=[listener.fileno()], output=errors, errors=errors
            )
        except OSError as error:
            sock.close()
            raise DeviceError(f"--share {path}: virtiofsd cannot be run: {error.strerror or error}") from None
    return sock, process
