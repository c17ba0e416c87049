"""``pyvmm device`` as another user, who may be unable to read this tree: it is imported before.

``python3 -m tests.support.device_as_user UID ARGUMENT...``
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import import_module
from pkgutil import walk_packages

_PR_SET_DUMPABLE = 4


def main(uid: int, arguments: list[str]) -> int:
    for name in ("pyvmm.backends", "pyvmm.host", "pyvmm.memory", "pyvmm.virtio"):
        for found in walk_packages(import_module(name).__path__, f"{name}."):
            import_module(found.name)
    for name in ("pyvmm.cli.device", "tests.support.reaching_device"):
        import_module(name)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as of a process that this user started
    from pyvmm.cli.main import main

    return main(["device", *arguments])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
