"""A command whose guest ends at once leaves before the kernel has closed its VM, and nothing stays."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from ctypes import CFUNCTYPE, c_int
from pathlib import Path

import pytest

from pyvmm.cli.late_close import close_in_child
from pyvmm.pykvm import Kvm
from tests.support.firmware_guest import BIN, PASSED

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def processes(mark: str) -> list[int]:
    """Processes with *mark* on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass  # gone meanwhile
    return found


def test_child_that_closes_the_vm_is_gone_soon_and_holds_no_output(tmp_path: Path) -> None:
    rom = tmp_path / "unique-exit.bin"
    shutil.copy(BIN / "exit.bin", rom)

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--console", "none", "--firmware", str(rom)],
        capture_output=True,  # read to its end: a child with our output open would be waited for
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (PASSED, b"", b"")
    limit = time.monotonic() + 5
    while processes(str(rom)):
        assert time.monotonic() < limit, "the child is still there"


def test_close_in_child_without_a_descriptor_leaves_the_waiting_to_this_process() -> None:
    _, most = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Kvm() as kvm, kvm.create_vm() as vm:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
        try:
            close_in_child(vm)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_close_in_child_when_the_host_gives_no_child_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyvmm.cli.late_close.function", lambda name: CFUNCTYPE(c_int)(lambda: -1))

    with Kvm() as kvm, kvm.create_vm() as vm:
        before = os.listdir("/proc/self/fd")
        close_in_child(vm)
        assert os.listdir("/proc/self/fd") == before
