"""A program that has a helper of pyvmm's started, as another user if wanted, and tells its processes.

``python3 -m tests.support.helper_process KIND UID MARK WORD``: *KIND* is ``disk``, ``net`` or ``share``,
*WORD* the option's value, UID -1 for who starts it. It prints a JSON list of the processes that were started,
whose command lines have *MARK*, and ends when its input does.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path

from pyvmm.backends.disk import image, qemu
from pyvmm.backends.net import passt
from pyvmm.config import DEVICE_KINDS
from pyvmm.virtio.block import options as block_options
from pyvmm.virtio.fs import device, options, virtiofsd
from pyvmm.virtio.net import options as net_options
from pyvmm.virtio.options import make_device

_PR_SET_DUMPABLE = 4
#: Loaded while this tree can be read.
LOADED = (tempfile, image, qemu, passt, block_options, device, options, virtiofsd, net_options)


def marked(mark: str) -> list[int]:
    """The processes other than this one whose command lines have *mark*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return found


def main(kind: str, uid: int, mark: str, word: str) -> None:
    canary = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(canary, True)
    if uid >= 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as of a process that this user started
    made = make_device(DEVICE_KINDS[kind].parse(word))
    print(json.dumps(marked(mark)), flush=True)
    sys.stdin.read()
    made.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
