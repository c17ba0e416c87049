"""Kernels that are no Linux, started by the command line as their users start them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.machine.ending import GUEST_FIRST
from tests.support.command import pyvmm
from tests.support.small_kernels import VIDEO_MODE, printing, with_interpreter

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def run(tmp_path: Path, image: bytes, *options: str) -> tuple[int, str, str]:
    """The exit code of ``pyvmm run``, what the kernel wrote, what pyvmm did."""
    path = tmp_path / "kernel"
    path.write_bytes(image)
    done = pyvmm("run", "--kernel", str(path), "--timeout", "20s", *options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_kernel_when_it_names_an_interpreter_and_has_a_pvh_note_runs(tmp_path: Path) -> None:
    assert run(tmp_path, with_interpreter(1))[0] == GUEST_FIRST + 1


def test_kernel_when_it_wishes_for_a_video_mode_runs_with_a_warning(tmp_path: Path) -> None:
    code, text, errors = run(tmp_path, printing(VIDEO_MODE), "--cmdline", "hello")

    assert (code, text.strip()) == (GUEST_FIRST, "hello")
    assert "asks for a video mode, and this machine has no display" in errors
