"""A process that can do nothing but compute: what it cannot do is done by the same code elsewhere."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.host import confined
from tests.support import confined_acts
from tests.support.confined_acts import ACTS

MODULE = confined_acts.__name__
#: Acts that fail by themselves for what they are given here, so that they change nothing.
FAIL_ANYWAY = {
    "unlink": errno.ENOENT,
    "execve": errno.ENOENT,
    "clone3": errno.EINVAL,
    "pidfd_getfd": errno.EBADF,
    "ptrace": errno.EPERM,
    "bpf": errno.EINVAL,
    "perf_event_open": errno.EFAULT,
    "seccomp": errno.EFAULT,
    "ioctl": errno.ENOTTY,
}


def call(name: str, data: bytes = b"", limit: int = 1 << 20, *arguments: str) -> bytes:
    return bytes(confined.call(f"{MODULE}:{name}", memoryview(data), limit, arguments))


def outcomes(text: bytes) -> dict[str, str]:
    return dict(line.split(": ") for line in text.decode().splitlines())


def test_no_forbidden_act_succeeds() -> None:
    assert outcomes(call("tried")) == dict.fromkeys(ACTS, "EPERM")


def test_the_same_acts_without_the_filter_get_as_far_as_the_kernel() -> None:
    program = f"import sys; from {MODULE} import tried; sys.stdout.buffer.write(tried(memoryview(b'')))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=True)

    found = outcomes(done.stdout)
    assert found.keys() == ACTS.keys()
    done_there = {name for name, outcome in found.items() if outcome == "done"}
    # What a host forbids everybody (in a container, say) proves nothing about the filter.
    refused = {"EPERM", "EACCES", "ENOSYS"}
    for name, outcome in found.items():
        if name in FAIL_ANYWAY:
            assert outcome in {errno.errorcode[FAIL_ANYWAY[name]], *refused}, name
        else:
            assert outcome == "done" or outcome in refused, name
    assert {"open", "stat", "fork", "socket", "kill", "memfd_create", "dup", "mmap of code"} <= done_there


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_bytes_go_in_and_come_out(size: int) -> None:
    data = os.urandom(size)

    assert call("echo", data, 1 << 23, "and", " more") == data + b"and more"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fail", r"it is \\x1b\[31mbroken"),
        ("crash", "its process ended with -11"),
        ("too_much", ""),
        ("long", "File too large"),
        ("absent", "its process ended with 1|has no attribute"),
    ],
)
def test_function_that_does_not_return_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(confined.ConfinedError) as caught:
        call(name, b"", 4096)
    assert re.search(sentence, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    call("echo", b"x")
    with pytest.raises(confined.ConfinedError):
        call("fail")

    assert len(os.listdir("/proc/self/fd")) == len(before)
