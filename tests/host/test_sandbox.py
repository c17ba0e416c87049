"""What a process in the sandbox is left with, and what is told of a host that cannot do all of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyvmm.host import landlock, opened
from pyvmm.host.sandbox import DESCRIPTORS, lacking_here

ROOT = Path(__file__).parents[2]
#: What each of the programs below begins with.
BEGIN = """
import ctypes, errno, json, os, sys
from pyvmm.host import opened
from pyvmm.host.sandbox import Sandbox
def attempt(function):
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
"""


def run(program: str, *arguments: str, **environment: str) -> Any:
    """What *program* prints, a JSON text."""
    command = [sys.executable, "-c", BEGIN + program, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def test_environment_files_and_mask_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("text")
    program = """
kept, other = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[1], os.O_RDONLY)
sandbox = Sandbox()
sandbox.enter([0, 1, 2, kept])
sandbox.seal()
print(json.dumps({
    "environment": dict(os.environ),
    "kept": os.read(kept, 9).decode(),
    "other": attempt(lambda: os.get_inheritable(other)),
    "root": attempt(lambda: os.listdir("/")),
}))
"""
    assert run(program, str(path), SECRET="x", LC_ALL="C.UTF-8", LANG="C") == {
        "environment": {"LC_ALL": "C.UTF-8", "LANG": "C"},
        "kept": "text",
        "other": "EBADF",
        "root": "EACCES",
    }


def test_limits_hold(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"")
    program = f"""
kept = os.open(sys.argv[1], os.O_RDWR)
sandbox = Sandbox()
sandbox.enter([0, 1, 2, kept])
sandbox.seal(file_size=1 << 20)
made = 0
while attempt(lambda: os.dup(0)) == "done" and made < {2 * DESCRIPTORS}:
    made += 1
print(json.dumps({{
    "within": attempt(lambda: os.pwrite(kept, b"x", (1 << 20) - 1)),
    "behind": attempt(lambda: os.pwrite(kept, b"x", 1 << 20)),
    "made": made,
}}))
"""
    found = run(program, str(path))
    assert (found["within"], found["behind"]) == ("done", "EFBIG")
    assert found["made"] == DESCRIPTORS


@pytest.mark.parametrize("descriptors", [40, 100])
def test_limits_where_few_descriptors_may_be_open_are_set(descriptors: int) -> None:
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))
sandbox = Sandbox()
sandbox.enter([0, 1, 2])
sandbox.seal()
print(json.dumps(sandbox.lacking))
"""
    assert run(program) == lacking_here()


def test_step_that_the_host_refuses_is_named_and_the_others_are_taken() -> None:
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock, by which the test has mounts refused")
    program = """
from pyvmm.host.landlock import Ruleset
sandbox = Sandbox()
Ruleset().enforce()
sandbox.enter([0, 1, 2])
sandbox.seal()
opened, forked = attempt(lambda: os.open("/", 0)), attempt(os.fork)
print(json.dumps({"lacking": sandbox.lacking, "open": opened, "fork": forked}))
"""
    found = run(program)
    refused = [sentence for sentence in found["lacking"] if sentence.startswith("empty root: mount")]
    # Without user namespaces there is no root to empty in the first place.
    assert refused == ["empty root: mount private: Operation not permitted"] or (
        found["lacking"][0].startswith("user namespace")
    )
    assert (found["open"], found["fork"]) == ("EACCES", "EPERM")


def test_what_is_lacking_here_is_what_a_sandbox_lacks() -> None:
    program = """
sandbox = Sandbox()
sandbox.enter([0, 1, 2])
sandbox.seal()
print(json.dumps(sandbox.lacking))
"""
    assert run(program) == lacking_here()


def test_file_kept_by_name_is_that_name_from_then_on(tmp_path: Path) -> None:
    path, absent = tmp_path / "image", tmp_path / "absent"
    path.write_text("first")
    try:
        opened.keep(str(path), os.O_RDONLY)
        opened.keep(str(absent), os.O_RDONLY)
        path.unlink()
        absent.write_text("later")

        for _ in range(2):  # each time another descriptor
            fd = opened.open_file(str(path), os.O_RDONLY)
            assert os.pread(fd, 9, 0) == b"first"
            os.close(fd)
        with pytest.raises(FileNotFoundError):
            opened.open_file(str(absent), os.O_RDONLY)
    finally:
        opened.close_all()
    with pytest.raises(OSError) as caught:
        opened.open_file(str(path), os.O_RDONLY)
    assert caught.value.errno == errno.ENOENT
