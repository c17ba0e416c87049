"""Standard files that are full, closed or broken, and devices given as files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.command import (
    BIN,
    EXIT,
    LAUNCHER,
    LIMIT,
    MODULE,
    PASSED,
    complains,
    environment,
    pyvmm,
    start,
)

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

FLOOD = str(BIN / "flood.bin")
QUIET = ("--console", "none", "--memory", "1M")


def shell(script: str, way: list[str] = MODULE) -> subprocess.CompletedProcess[bytes]:
    """Run *script* with $pyvmm the command."""
    return subprocess.run(
        ["bash", "-c", f'pyvmm() {{ "${{way[@]}}" "$@"; }}; way=("$@"); {script}', "bash", *way],
        capture_output=True,
        timeout=LIMIT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_console_when_the_reader_has_gone_is_dropped_and_the_guest_goes_on() -> None:
    done = shell(f'pyvmm run --firmware {FLOOD} --memory 4M | head -c1; echo " ${{PIPESTATUS[0]}}"')

    assert (done.stdout, done.stderr) == (f"A {PASSED}\n".encode(), b"")


def test_console_when_stdout_is_full_warns_in_one_line_and_the_guest_goes_on() -> None:
    done = shell(f"pyvmm run --firmware {FLOOD} --memory 4M >/dev/full")

    complains(done, PASSED, "standard output", "No space left")


def test_console_file_when_the_disk_is_full_warns_in_one_line_and_the_guest_goes_on() -> None:
    done = pyvmm("run", "--firmware", FLOOD, "--memory", "4M", "--console", "file:/dev/full")

    complains(done, PASSED, "/dev/full", "No space left")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("console", ["stdio", "none"])
def test_run_when_standard_files_are_closed_runs_all_the_same(closed: str, console: str) -> None:
    done = shell(f"pyvmm run --firmware {FLOOD} --memory 4M --console {console} {closed}")

    assert (done.returncode, done.stderr) == (PASSED, b"")


def test_run_when_standard_files_are_closed_writes_no_console_into_other_files(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    done = shell(f"pyvmm run --firmware {FLOOD} --memory 4M --result {result} <&- >&- 2>&-")

    assert done.returncode == PASSED
    assert json.loads(result.read_text())["code"] == PASSED


def test_launcher_when_standard_files_are_closed_runs_all_the_same() -> None:
    if not os.path.exists(LAUNCHER[0]):
        pytest.skip("pyvmm is not installed in this environment; `pip install -e .` does that")

    done = shell(f"pyvmm run --firmware {FLOOD} --memory 4M <&- >&- 2>&-", LAUNCHER)

    assert done.returncode == PASSED


@pytest.mark.parametrize("verb", ["", "run", "doctor", "image", "lab"])
def test_help_when_stdout_is_full_says_so(verb: str) -> None:
    complains(shell(f"pyvmm {verb} --help >/dev/full"), 64, "standard output: No space left")


@pytest.mark.parametrize("verb", ["", "run", "doctor", "image", "lab"])
def test_help_when_nobody_reads_it_is_silent(verb: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    process = start(*filter(None, [verb]), "--help", stdout=writer)
    os.close(writer)

    assert (process.communicate(timeout=LIMIT)[1], process.returncode) == (b"", 0)


def test_complaint_when_stderr_is_closed_or_full_still_has_its_code() -> None:
    assert shell("pyvmm run --parrot 2>&-").returncode == 65
    assert shell("pyvmm run --parrot 2>/dev/full").returncode == 65


def test_result_when_the_disk_is_full_says_so_and_fails() -> None:
    done = pyvmm("run", "--firmware", EXIT, "--result", "/dev/full", *QUIET)

    complains(done, 64, "/dev/full was not written: No space left", "ended with code 32")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_result_when_a_device_leaves_it_one() -> None:
    done = pyvmm("run", "--firmware", EXIT, "--result", "/dev/null", *QUIET)

    assert (done.returncode, done.stderr) == (PASSED, b"")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_result_when_stdout_is_written_there() -> None:
    done = pyvmm("run", "--firmware", EXIT, "--result", "/dev/stdout", *QUIET)

    assert json.loads(done.stdout)["code"] == PASSED


def test_result_when_its_folder_is_read_only_is_refused_before_the_guest_runs(tmp_path: Path) -> None:
    console = tmp_path / "console"
    done = pyvmm("run", "--firmware", EXIT, "--result", "/proc/result.json", "--console", f"file:{console}")

    complains(done, 64, "/proc/result.json")


def test_result_when_the_file_system_is_full_leaves_nothing_half_written(tmp_path: Path) -> None:
    # A file system of one page: the console's log takes it.
    script = (
        f"mount -t tmpfs -o size=4k none {tmp_path} && head -c 4096 /dev/zero >{tmp_path}/filler && "
        f'"$@" run --firmware {EXIT} --memory 1M --console none --result {tmp_path}/result.json; '
        f"code=$?; ls {tmp_path}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *MODULE],
        capture_output=True,
        env=environment(),
        check=False,
    )
    if b"pyvmm" not in done.stderr:
        pytest.skip(f"no mount namespace of our own here: {done.stderr.decode().strip()}")

    complains(done, 64, "result.json was not written: No space left")
    assert done.stdout == b"filler\n"


def test_input_that_is_there_before_the_guest_reaches_it_whole() -> None:
    data = bytes(range(32, 127)) * 150

    done = pyvmm("run", "--firmware", str(BIN / "echo.bin"), "--memory", "16M", stdin=data + b"\x04")

    assert done.returncode == PASSED
    assert data in done.stdout
