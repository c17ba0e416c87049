"""``pyvmm run`` from start to end: codes, records, boards, restarts, several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command import (
    BIN,
    EXIT,
    HLT,
    LAUNCHER,
    MODULE,
    PASSED,
    SPIN,
    complains,
    pyvmm,
    read_until,
    start,
    until,
)
from tests.support.programs import outb, rom

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

QUIET = ("--console", "none", "--memory", "1M")
REBOOT = str(BIN / "reset_i8042.bin")
WAYS = [pytest.param(MODULE, id="module"), pytest.param(LAUNCHER, id="launcher")]


@pytest.fixture(autouse=True)
def _launcher_is_there(request: pytest.FixtureRequest) -> None:
    way = request.node.callspec.params.get("way") if hasattr(request.node, "callspec") else None
    if way is LAUNCHER and not os.path.exists(LAUNCHER[0]):
        pytest.skip("pyvmm is not installed in this environment; `pip install -e .` does that")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("exit.bin", PASSED, None),
        ("poweroff_acpi.bin", 0, None),
        ("reset_i8042.bin", 0, None),
        ("triple_fault.bin", 7, "triple-fault: triple fault on vCPU 0"),
        ("fw_cfg.bin", PASSED, None),
        ("pci_probe.bin", 5, "the firmware uses PCI"),
    ],
)
def test_guest_when_it_ends_gives_its_code_and_a_line_for_what_is_wrong(
    way: list[str], program: str, code: int, words: str | None
) -> None:
    done = pyvmm("run", "--firmware", str(BIN / program), *QUIET, way=way)

    if words is None:
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
    else:
        complains(done, code, words)


@pytest.mark.parametrize("way", WAYS)
def test_console_when_stdio_is_stdout(way: list[str]) -> None:
    done = pyvmm("run", "--firmware", str(BIN / "hello0.bin"), "--memory", "4M", way=way)

    assert (done.returncode, done.stderr) == (PASSED, b"")
    assert done.stdout == b"ok hello0\n"


def test_input_when_piped_reaches_the_guest_to_the_last_byte() -> None:
    text = b"".join(b"%d bottles\n" % number for number in range(60))
    process = start(
        "run", "--firmware", str(BIN / "echo.bin"), "--memory", "4M", stdin=subprocess.PIPE, way=MODULE
    )
    read_until(process.stdout, b"ready\n")  # what came before, the guest throws away as it sets up its port

    said, complaint = process.communicate(text + b"\4", timeout=60)

    assert (process.returncode, complaint) == (PASSED, b"")
    assert said == text + b"ok echo\n"


def test_timeout_when_the_guest_goes_on_ends_it_with_code_3() -> None:
    done = pyvmm("run", "--firmware", SPIN, "--timeout", "200ms", *QUIET)

    complains(done, 3, "timeout", "within 0.2 seconds")


def test_debug_exit_when_set_answers_there(tmp_path: Path) -> None:
    program = rom(tmp_path, outb(0x501, 9) + outb(0x502, 5))

    assert pyvmm("run", "--firmware", program, "--debug-exit", "0x502", *QUIET).returncode == 37
    assert pyvmm("run", "--firmware", program, *QUIET).returncode == 41


def test_debug_exit_when_none_is_only_a_port(tmp_path: Path) -> None:
    program = rom(tmp_path, outb(0x501, 9) + outb(0x64, 0xFE))

    assert pyvmm("run", "--firmware", program, "--debug-exit", "none", *QUIET).returncode == 0


@pytest.mark.parametrize(
    ("program", "record"),
    [
        ("exit.bin", {"code": 32, "reason": "debug-exit", "known": "told"}),
        ("poweroff_acpi.bin", {"code": 0, "reason": "poweroff", "known": "told"}),
        ("triple_fault.bin", {"code": 7, "reason": "triple-fault", "known": "inferred"}),
    ],
)
def test_result_has_how_the_guest_ended(tmp_path: Path, program: str, record: dict[str, object]) -> None:
    result = tmp_path / "result.json"

    done = pyvmm("run", "--firmware", str(BIN / program), "--result", str(result), *QUIET)

    written = json.loads(result.read_text())
    assert written.pop("detail")
    assert written == record
    assert done.returncode == record["code"]
    assert os.listdir(tmp_path) == ["result.json"]


def test_restart_when_the_guest_reboots_goes_on_until_the_timeout_over_all(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    begin = time.monotonic()

    done = pyvmm(
        *("run", "--firmware", REBOOT, "--on-reboot", "restart", "--timeout", "0.5", *QUIET),
        *("--result", str(result)),
    )

    complains(done, 3, "timeout", "within 0.5 seconds")
    assert 0.5 <= time.monotonic() - begin < 30
    assert json.loads(result.read_text())["reason"] == "timeout"


def test_restart_when_the_guest_reboots_starts_it_anew(tmp_path: Path) -> None:
    program = rom(tmp_path, outb(0x3F8, *b"up\n") + outb(0x64, 0xFE))
    process = start("run", "--firmware", program, "--on-reboot", "restart", "--memory", "1M")
    try:
        read_until(process.stdout, b"up\nup\nup\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3
    finally:
        process.kill()
        process.communicate()


def test_restart_when_the_guest_powers_off_ends() -> None:
    done = pyvmm(
        "run", "--firmware", str(BIN / "poweroff_acpi.bin"), "--on-reboot", "restart", *QUIET
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")


def test_board_when_given_has_its_paths_from_its_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "board"
    folder.mkdir()
    (folder / "rom.bin").write_bytes(Path(EXIT).read_bytes())
    with open(folder / "ram", "wb") as file:
        file.truncate(2 << 20)
    (folder / "board.toml").write_text(
        'firmware = "rom.bin"\nconsole = "file:log"\n'
        '[[memory]]\nsize = "1M"\n'
        '[[memory]]\nsize = "2M"\nbacking = "file"\npath = "ram"\n'
        '[[memory]]\nsize = "1M"\nbacking = "memfd"\n'
    )

    done = pyvmm("run", "board/board.toml", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (PASSED, b"")
    assert sorted(os.listdir(folder)) == ["board.toml", "log", "ram", "rom.bin"]


def test_board_when_its_memory_file_has_another_size_says_so(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(4096))
    (tmp_path / "board.toml").write_text(
        f'firmware = "{EXIT}"\nconsole = "none"\n'
        'memory = ["1M", {size = "1M", backing = "file", path = "ram"}]\n'
    )

    complains(pyvmm("run", "board.toml", cwd=tmp_path), 64, "4096 bytes and the part 1048576")


def test_flags_when_given_beside_a_board_win(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(f'firmware = "{SPIN}"\ntimeout = "9m"\nconsole = "none"\n')

    done = pyvmm("run", "board.toml", "--firmware", EXIT, cwd=tmp_path)

    assert done.returncode == PASSED


@pytest.mark.parametrize("way", WAYS)
def test_relative_paths_on_the_command_line_are_the_callers(tmp_path: Path, way: list[str]) -> None:
    (tmp_path / "rom.bin").write_bytes(Path(EXIT).read_bytes())

    done = pyvmm("run", "--firmware", "rom.bin", "--result", "r.json", *QUIET, cwd=tmp_path, way=way)

    assert done.returncode == PASSED
    assert sorted(os.listdir(tmp_path)) == ["r.json", "rom.bin"]


def test_two_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    programs = [
        rom(tmp_path, outb(0x3F8, *words) + outb(0x501, code)) for code, words in enumerate((b"a", b"b"))
    ]
    processes = [start("run", "--firmware", program, "--memory", "1M") for program in programs]

    outputs = [process.communicate(timeout=60) for process in processes]

    assert outputs == [(b"a", b""), (b"b", b"")]
    assert [process.returncode for process in processes] == [32, 33]


def test_kill_when_it_cannot_be_refused_leaves_no_result_and_no_lock(tmp_path: Path) -> None:
    result, socket = tmp_path / "result.json", tmp_path / "console"
    result.write_text("a record of an earlier run")
    options = ("--result", str(result), "--console", f"socket:{socket}", "--memory", "1M")
    process = start("run", "--firmware", HLT, *options)
    until(socket.exists)

    process.kill()
    process.communicate()

    assert not result.exists()
    done = pyvmm("run", "--firmware", EXIT, *options)  # what it left behind is in nobody's way
    assert (done.returncode, done.stderr) == (PASSED, b"")
    assert json.loads(result.read_text())["code"] == PASSED
    assert os.listdir(tmp_path) == ["result.json"]


def test_defect_after_the_start_is_told() -> None:
    code = """
from pyvmm.cli import guest_run, main
from pyvmm.machine.ending import FATAL, UNKNOWN, Ending

guest_run.GuestRun._run = lambda self, loop: Ending(FATAL, "internal", UNKNOWN, "a timer failed")
main.entry()
"""
    done = pyvmm("--firmware", SPIN, "--console", "none", way=[sys.executable, "-c", code, "run"])

    complains(done, 96, "internal: a timer failed")


@pytest.mark.parametrize(
    ("cards", "told"),
    [
        (["switch:lab"], True),
        (["switch:lab", "switch:lab"], False),
        (["switch:a", "switch:b"], True),
        (["none"], False),
    ],
)
def test_card_that_is_alone_on_its_switch_is_told_what_joins_two_processes(
    cards: list[str], told: bool
) -> None:
    nets = [word for card in cards for word in ("--net", card)]

    done = pyvmm("run", "--firmware", EXIT, *QUIET, *nets)

    assert done.returncode == PASSED
    assert (b"give both --net link:PATH" in done.stderr) is told, done.stderr
