"""``pyvmm run`` with every small number of descriptors, processes, bytes of memory and of its disk.

Each command works, or says in one sentence what is missing, with the exit code of a host's fault.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import host_faults
from tests.support.command import environment
from tests.support.firmware_guest import BIN
from tests.support.host_faults import MANY, begins, judge, on_full_disk, other_user, prepare

NONE = ("--console", "none")
QCOW2 = (*NONE, "--disk", "disk.qcow2")
SHARE = (*NONE, "--hvc", "file:hvc", "--result", "result", "--on-reboot", "restart", "--cpus", "4")
FILES = ("--console", "file:log", "--hvc", "file:hvc", "--result", "result", "--trace-device", "console0=t")
#: What is limited, with the numbers to try and the options of the commands.
LIMITS = (
    (resource.RLIMIT_NOFILE, range(3, 72), 1, (NONE, MANY, QCOW2, SHARE)),
    (resource.RLIMIT_AS, range(20, 100), 1 << 20, (NONE, MANY, SHARE)),
    (resource.RLIMIT_NPROC, range(1, 16), 1, (NONE, MANY, QCOW2, SHARE)),
    (resource.RLIMIT_FSIZE, range(0, 96, 8), 1 << 10, (NONE, FILES)),
)
DISKS = [(kib, 0) for kib in range(4, 132, 8)] + [(0, inodes) for inodes in range(1, 14)]


def _cases() -> Iterator[tuple[str, int, tuple[str, ...]]]:
    for which, numbers, unit, commands in LIMITS:
        for options in commands:
            yield from ((str(which), number * unit, options) for number in numbers)
    yield from (("disk", number, FILES) for number in range(len(DISKS)))


def run(seconds: float, seed: int) -> str:
    """Every case, in an order that *seed* gives, as far as *seconds* reach."""
    cases = list(_cases())
    random.Random(seed).shuffle(cases)
    end, worked, refused, sentences = time.monotonic() + seconds, 0, 0, set[str]()
    for kind, number, options in cases:
        if time.monotonic() > end:
            break
        try:
            sentence = _one(kind, number, options)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"{kind} {number}, {' '.join(options)}: {error}") from error
        if sentence is None:
            continue
        worked += not sentence
        refused += bool(sentence)
        sentences.add(sentence.partition(":")[0])
    return (
        f"{worked + refused} of {len(cases)} shortages: {worked} commands work, {refused} say what is "
        f"missing, in {len(sentences)} different sentences"
    )


def _one(kind: str, number: int, options: tuple[str, ...]) -> str | None:
    """Its sentence; None where the interpreter itself does not begin, or the shortage cannot be made here."""
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        folder = Path(name)
        if kind == "disk":
            before = on_full_disk(folder, *DISKS[number])
            if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
                return None
            places = dict.fromkeys(("XDG_RUNTIME_DIR", "TMPDIR", "PYVMM_CACHE"), name)
            flood = str(BIN / "flood.bin")
            return judge(
                host_faults.run(options, folder, {**environment(), **places}, before=before, guest=flood), 3
            )
        variables = prepare(folder)
        if options is QCOW2:
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "1M"]
            if not shutil.which("qemu-img") or subprocess.run(command, cwd=folder, check=False).returncode:
                return None
        limits, before = {int(kind): number}, ()
        if int(kind) == resource.RLIMIT_NPROC:
            if os.geteuid() or not shutil.which("setpriv"):
                return None
            before = other_user(folder)
            if not begins(folder, variables, {}, before):
                return None
        elif not begins(folder, variables, limits):
            return None
        notices = 3 if options is FILES else int(options is MANY)
        return judge(host_faults.run(options, folder, variables, limits, before), notices)
