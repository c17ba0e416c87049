"""``pyvmm new-device``: what it writes works, and it destroys nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.cli import new_device
from pyvmm.cli.main import main
from pyvmm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_skeleton_passes_its_own_tests(tmp_path: Path) -> None:
    new_device.write("my-device", str(tmp_path / "new"))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "new"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert "failed" not in done.stdout


def test_skeleton_has_no_name_too_many_and_none_too_few(tmp_path: Path) -> None:
    new_device.write("tiny", str(tmp_path))
    ruff = Path(sys.executable).with_name("ruff")

    done = subprocess.run(
        [str(ruff), "check", "--isolated", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_verb_writes_the_files_and_says_what_to_do_next(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-device", "blinker", "--dir", str(tmp_path)]) == 0

    said = capfd.readouterr().out
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["blinker.py", "test_blinker.py", "test_blinker_guest.py"]
    assert f"pyvmm run --device {tmp_path}/blinker.py:Blinker" in said


def test_file_that_is_there_is_not_overwritten_and_nothing_else_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_blinker.py").write_text("mine")

    assert main(["new-device", "blinker", "--dir", str(tmp_path)]) == ConfigError.exit_code

    assert "test_blinker.py is there already and is not overwritten" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_blinker.py"]
    assert (tmp_path / "test_blinker.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "2much", "a/b", "class", "random", "pyvmm", "-x-", "ä"])
def test_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        new_device.write(name, str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert main(["new-device", "blinker", "--dir", str(tmp_path / "file")]) == 64

    assert "cannot be written: " in capfd.readouterr().err
