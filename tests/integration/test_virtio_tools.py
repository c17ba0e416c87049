"""Trace, faults, recording and the skeleton of a new device, under Debian's stock kernel."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.cli import new_device
from pyvmm.testing.replay import Replay
from pyvmm.virtio.tools.record import Recording
from pyvmm.virtio.user_device import load_class, make
from tests.support.linux import LIMIT, execute
from tests.support.pages import ROOT, TUTORIAL, files_of

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]


class Run:
    """A guest that read from a new device, everything switched on."""

    def __init__(self, folder: Path) -> None:
        [device, *_] = new_device.write("blinker", str(folder))
        self.kind = f"{device}:Blinker"
        self.recording = str(folder / "recording")
        trace = folder / "trace"
        self.done: subprocess.CompletedProcess[bytes] = execute(
            "--device",
            f"{self.kind},text=pyvmm",
            "--trace-device",
            f"blinker={trace}",
            "--inject",
            "blinker0:delay=20ms",
            "--record",
            f"blinker0={self.recording}",
            command="head -c 400 /dev/hwrng",
        )
        self.trace = trace.read_text() if trace.exists() else ""


@functools.cache
def with_tools(folder: Path) -> Run:
    """One guest for all tests here."""
    return Run(folder)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.getbasetemp() / "device"
    folder.mkdir(exist_ok=True)
    run = with_tools(folder)
    assert run.done.returncode == 0, run.done
    return run


def test_new_device_is_read_by_the_kernels_own_driver(run: Run) -> None:
    assert len(run.done.stdout) == 400
    assert b"pyvmmpyvmm" in run.done.stdout


def test_trace_follows_the_driver_from_probe_to_interrupt(run: Run) -> None:
    for line in (
        "read  DeviceID -> 4 (entropy)",
        "write Status <- 0xf (ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK)",
        "kick  queue 0",
        "irq   used buffers",
        "read  InterruptStatus -> 0x1 (used buffer)",
    ):
        assert f"] blinker0 {line}\n" in run.trace


def test_faults_reach_the_driver_as_the_trace_shows(run: Run) -> None:
    answers = re.findall(r"used  queue 0 head \d+: (\d+) written in (\d+) us", run.trace)

    assert len(answers) > 5
    assert all(int(micro) >= 20_000 for _, micro in answers)


def test_recording_has_what_the_device_did_and_replays_without_a_difference(run: Run) -> None:
    replay = Replay(Recording(run.recording), make(load_class(run.kind), {"text": "pyvmm"}))

    assert replay.run(), list(map(str, replay.differences))
    assert replay.results > 5


def test_guest_test_of_a_new_device_passes(tmp_path: Path) -> None:
    guest_test = new_device.write("beacon", str(tmp_path))[-1]

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",  # it has a compiled part, which an emulated host has not
            "--rootdir",
            str(tmp_path),
            guest_test,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert "1 passed" in done.stdout, done.stdout


def test_command_of_the_tutorial_rolls_its_dice(tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text(files_of(TUTORIAL)["dice.py"])
    page = (ROOT / "docs" / TUTORIAL).read_text()
    [words, command] = re.findall(
        r"^pyvmm run --device \./dice\.py:(\S+) --exec '(.*)'$", page, re.MULTILINE
    )[0]

    done = execute("--device", f"{tmp_path}/dice.py:{words}", command=command)

    rolls = [int(word) for word in done.stdout.split()]
    assert done.returncode == 0, done
    assert len(rolls) == 10
    assert all(1 <= roll <= 20 for roll in rolls)
