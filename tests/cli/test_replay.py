"""``pyvmm replay``: exit codes and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.virtio.tools.record import Recorder
from tests.virtio.tools.devices import Shout, observed

KIND = "tests.virtio.tools.devices:Shout"


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path, device = str(tmp_path / "recording"), Shout()
    with observed(device, Recorder(path).serve(device)) as driver:
        driver.probe()
        driver.request(0, [b"one"], [8])
        driver.request(0, [b"two"], [8])
    return path


def test_replay_of_the_same_device_ends_with_0(recording: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", recording, "--device", KIND]) == 0

    assert capfd.readouterr().out == (
        "2 requests, 2 answers, 0 accesses to the configuration space: no difference\n"
    )


def test_replay_of_another_device_ends_with_1_and_tells_the_differences(
    recording: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", recording, "--device", f"{KIND},answer=TWO"]) == 1

    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "queue 0: byte 0 of 3 is 0x54 instead of 0x4f" in lines[0]
    assert lines[1].endswith(": 1 difference")


def test_replay_of_a_recording_that_was_cut_off_says_so(
    recording: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Path(recording).read_bytes()
    Path(recording).write_bytes(data[:-20])

    assert main(["replay", recording, "--device", KIND]) == 0

    assert "the recording was cut off: its last " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "replay takes a recording and a device"),
        (["nowhere", "--device", KIND], "nowhere cannot be read: No such file"),
        (["RECORDING"], "replay takes a recording and a device"),
        (["RECORDING", "--device", "pyvmm.virtio.rng.device:Rng"], "was recorded from a device with id 99"),
        (["RECORDING", "--device", f"{KIND},pitch=3"], "'pitch' is unknown; it knows answer"),
        (["RECORDING", "--device", KIND, "--patience", "x"], "--patience: 'x' is not a duration"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    recording: str, arguments: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [recording if word == "RECORDING" else word for word in arguments]

    assert main(["replay", *words]) == 65

    said = capfd.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
