"""Hosts short of descriptors, memory, processes or room: a command works, or says so in one sentence.

The campaign ``scripts/soak host-faults`` tries every number; here are some of each.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.command import LIMIT, PASSED, ROOT
from tests.support.command import environment as command_environment
from tests.support.firmware_guest import BIN
from tests.support.host_faults import MANY, begins, judge, on_full_disk, other_user, prepare, run

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(240)]

NONE = ("--console", "none")


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """That of commands in *tmp_path*, where they find the files of MANY."""
    return prepare(tmp_path)


@pytest.mark.parametrize(
    ("options", "numbers"), [(NONE, (5, 6, 8, 9)), (MANY, (5, 8, 12, 15, 18, 21, 28, 40))]
)
def test_command_that_has_few_descriptors_says_how_to_get_more(
    tmp_path: Path, environment: Mapping[str, str], options: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    sentences = []
    for number in numbers:
        limits = {resource.RLIMIT_NOFILE: number}
        if begins(tmp_path, environment, limits):
            sentences.append(judge(run(options, tmp_path, environment, limits)))

    assert any("ulimit -n" in sentence for sentence in sentences), sentences


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img and qemu-nbd")
def test_image_of_qemus_works_with_few_descriptors(tmp_path: Path, environment: Mapping[str, str]) -> None:
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "1M"]
    subprocess.run(create, cwd=tmp_path, check=True, timeout=LIMIT)
    options = (*NONE, "--disk", "disk.qcow2")
    limits = [{resource.RLIMIT_NOFILE: number} for number in (12, 14, 16, 24, 40, 63)]

    sentences = [judge(run(options, tmp_path, environment, limit)) for limit in limits]

    assert sentences[-3:] == ["", "", ""] and all("ulimit -n" in one for one in sentences if one), sentences


def test_command_that_has_little_memory_says_so(tmp_path: Path, environment: Mapping[str, str]) -> None:
    for mib in (24, 32, 35, 38, 44, 60):
        limits = {resource.RLIMIT_AS: mib << 20}
        if begins(tmp_path, environment, limits):
            judge(run(MANY, tmp_path, environment, limits))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_command_that_gets_few_processes_says_so(tmp_path: Path, environment: Mapping[str, str]) -> None:
    before = other_user(tmp_path)
    if judge(run(NONE, tmp_path, environment, before=before)):
        pytest.skip("no other user may use /dev/kvm or this interpreter here")
    # Root becomes that user with the limit in force, whose processes are counted from then on.
    sentences = [
        judge(run(options, tmp_path, environment, {resource.RLIMIT_NPROC: number}, before), notices=1)
        for number, options in ((1, NONE), (2, NONE), (3, NONE), (3, MANY))
    ]

    assert all(sentences) and "ulimit -u" in sentences[1], sentences
    # The kernel's own thread for a VM is made by its first KVM_RUN, which fails without.
    assert "gives no thread to KVM" in sentences[2], sentences


@pytest.mark.parametrize(("kib", "inodes"), [(4, 0), (8, 0), (24, 0), (64, 0), (0, 2), (0, 5)])
def test_command_whose_disk_is_full_works_or_says_so(tmp_path: Path, kib: int, inodes: int) -> None:
    before = on_full_disk(tmp_path, kib, inodes)
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of our own here")
    places = {name: str(tmp_path) for name in ("XDG_RUNTIME_DIR", "TMPDIR", "PYVMM_CACHE")}
    environment = {**command_environment(), **places}
    options = (
        "--console",
        "file:log",
        "--hvc",
        "file:hvc",
        "--result",
        "result",
        "--trace-device",
        "console0=t",
    )
    flood = str(BIN / "flood.bin")

    done = run(options, tmp_path, environment, before=before, guest=flood)

    judge(done, notices=3)


def test_disk_image_on_a_full_disk_has_all_that_was_written(tmp_path: Path) -> None:
    before = ("unshare", *(() if os.geteuid() == 0 else ("-r",)), "-m")
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of our own here")
    words = [*before, sys.executable, "-m", "tests.support.full_disk", str(tmp_path)]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=LIMIT, check=False, text=True)

    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) <= 5, lines  # a notice is not repeated for each request


def test_command_works_where_nothing_is_short(tmp_path: Path, environment: Mapping[str, str]) -> None:
    done = run(MANY, tmp_path, environment)

    assert (judge(done), done.returncode) == ("", PASSED)
