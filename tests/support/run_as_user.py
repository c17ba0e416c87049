"""``pyvmm run`` as another user, who may be unable to read this tree or to run this Python.

``python3 -m tests.support.run_as_user UID KERNEL ARGUMENT...``: it imports all before, and KERNEL
is unpacked then. By root; /dev/kvm is this user's, too, in a mount namespace.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import tempfile
from importlib import import_module
from pkgutil import walk_packages

from pyvmm.arch import native
from pyvmm.host.namespaces import own_mounts
from pyvmm.machine.payload import read_image

_PR_SET_DUMPABLE = 4
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_ROOMS = (
    "backends",
    "board",
    "boot",
    "cli",
    "config",
    "devices",
    "guest",
    "host",
    "loop",
    "machine",
    "memory",
)
_LIBC = ctypes.CDLL(None)


def main(uid: int, kernel: str, arguments: list[str]) -> int:
    for name in (*_ROOMS, "pykvm", "sandbox", "virtio", f"arch.{native.NAME}"):
        room = import_module(f"pyvmm.{name}")
        for found in walk_packages(getattr(room, "__path__", ()), f"pyvmm.{name}."):
            import_module(found.name)
    import_module("tests.support.attacking_device")
    native.unpack_ahead(read_image(kernel, "kernel"))
    own_mounts()
    _LIBC.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    with tempfile.TemporaryDirectory() as folder:
        node = f"{folder}/kvm"
        os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chmod(node, 0o666)
        _LIBC.mount(node.encode(), b"/dev/kvm", None, ctypes.c_ulong(_MS_BIND), None)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as of a process that this user started
    from pyvmm.cli.main import main

    return main(["run", "--kernel", kernel, *arguments])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
