"""What a command waits for: drawn again on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm.cli import progress
from pyvmm.cli.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {"starting": "starting the host", "busy": "waiting"}


def test_progress_in_a_log_is_whole_lines_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    said = ""

    with Progress(TEXTS) as shown:
        shown.state("starting")
        limit = time.monotonic() + 20
        while said.count("\n") < 3:
            assert time.monotonic() < limit
            said += capfd.readouterr().err
        shown.state("busy")

    said += capfd.readouterr().err
    lines = said.splitlines()
    assert lines[0] == "pyvmm: starting the host ..."
    assert lines[1].startswith("pyvmm: starting the host ... 0.")
    assert lines[-1].startswith("pyvmm: waiting ... 0.")
    assert "\r" not in said and said.endswith(" s\n")


def test_progress_in_a_log_that_is_short_is_two_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(TEXTS) as shown:
        shown.state("starting")

    assert len(capfd.readouterr().err.splitlines()) == 2


def test_progress_on_a_terminal_is_one_line() -> None:
    code = (
        "import sys\nfrom pyvmm.cli import progress\nprogress.REFRESH = 0.01\n"
        "with progress.Progress({'starting': 'starting'}) as shown:\n"
        "    shown.state('starting')\n    sys.stdin.read(1)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    assert process.stdin is not None
    said = b""
    while said.count(b"\r") < 5:
        said += os.read(ours, 4096)
    process.stdin.close()
    try:
        while data := os.read(ours, 4096):
            said += data
    except OSError:
        pass  # the other end is closed
    os.close(ours)

    assert process.wait(20) == 0
    assert said.count(b"\n") == 1
    assert said.startswith(b"\rpyvmm: starting ... 0.")
