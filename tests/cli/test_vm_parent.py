"""The two processes of ``pyvmm run``: the machine can always be ended, and neither process is left."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.cli.vm_parent import GRACE
from tests.support.command import (
    BIN,
    LIMIT,
    PASSED,
    SPIN,
    OnTerminal,
    complains,
    pyvmm,
    read_until,
    starter,
    until,
)
from tests.support.runtime import runtime

__all__ = ["runtime"]

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120), pytest.mark.usefixtures("runtime")]

#: A device whose work in the machine's loop never ends.
STUCK = """
import sys, time
from pyvmm import VirtioDevice

class Stuck(VirtioDevice):
    device_id = 42
    queue_sizes = (8,)

    def attached(self):
        self.runtime.loop.call_soon(self.hold)

    def handle(self, queue, chain):
        pass

    def hold(self):
        sys.stderr.write("held")
        sys.stderr.flush()
        time.sleep(1000)
"""

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts ``pyvmm run`` of a guest that never ends."""
    with starter("run", "--firmware", SPIN, "--console", "none") as begin:
        yield begin


@pytest.fixture
def stuck(tmp_path: Path) -> list[str]:
    """Options of a guest whose event loop is held."""
    (tmp_path / "stuck.py").write_text(STUCK)
    return ["--device", f"{tmp_path}/stuck.py:Stuck"]


def vm_process(process: subprocess.Popen[bytes]) -> int:
    """The number of the VM process; waits until it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: children.read_text().split())
    return int(children.read_text().split()[0])


def descriptors(pid: int) -> list[str]:
    """What the descriptors of process *pid* are, but for those that it closes this moment."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return found


def over(fd: int) -> bool:
    """Whether the process of pidfd *fd* ends within the limit."""
    return bool(select.select([fd], [], [], LIMIT)[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_machine_whose_loop_is_held_is_killed_when_it_was_asked_to_end(
    run: Run, stuck: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    result = tmp_path / "result.json"
    process = run(*stuck, "--result", str(result))
    assert process.stderr is not None
    read_until(process.stderr, b"held")
    pidfd = os.pidfd_open(vm_process(process))

    process.send_signal(number)

    assert process.wait(LIMIT) == 3
    assert over(pidfd)
    os.close(pidfd)
    detail = f"ended by {number.name}; it did not react for {GRACE:g} seconds and was killed"
    assert detail.encode() in process.stderr.read()
    assert json.loads(result.read_text()) == {
        "code": 3,
        "reason": "stopped",
        "known": "told",
        "detail": detail,
    }


def test_machine_that_is_still_being_built_is_killed_soon_after_a_signal(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK.replace("self.runtime.loop.call_soon(self.hold)", "self.hold()"))
    process = run("--device", f"{tmp_path}/stuck.py:Stuck")
    assert process.stderr is not None
    read_until(process.stderr, b"held")
    pidfd = os.pidfd_open(vm_process(process))

    process.send_signal(signal.SIGTERM)

    assert process.wait(LIMIT) == 3
    assert over(pidfd)
    os.close(pidfd)
    assert b"stopped: ended by SIGTERM before the guest began (told)" in process.stderr.read()


def test_signals_that_come_until_the_process_has_ended_do_not_change_how_it_ends(run: Run) -> None:
    process = run()
    vm_process(process)

    while process.poll() is None:
        process.send_signal(signal.SIGTERM)

    assert process.returncode == 3


def test_timeout_of_a_machine_whose_loop_is_held_kills_it(run: Run, stuck: list[str]) -> None:
    process = run(*stuck, "--timeout", "500ms")

    assert process.wait(LIMIT) == 3
    assert process.stderr is not None
    assert b"timeout: the guest did not end within 0.5 seconds; it did not react" in process.stderr.read()


def test_vm_process_that_is_killed_is_an_ending_that_names_the_signal(run: Run) -> None:
    process = run()

    os.kill(vm_process(process), signal.SIGKILL)

    assert process.wait(LIMIT) == 96
    assert process.stderr is not None
    complains(subprocess.CompletedProcess([], 96, b"", process.stderr.read()), 96, "was ended by SIGKILL")


def test_vm_process_ends_with_its_parent(run: Run) -> None:
    process = run()
    pidfd = os.pidfd_open(vm_process(process))

    process.kill()

    assert over(pidfd)
    os.close(pidfd)


def test_signal_to_the_vm_process_alone_ends_nothing(run: Run) -> None:
    process = run("--name", "alone")
    child = vm_process(process)
    until(lambda: json.loads(pyvmm("ps", "--json").stdout))

    os.kill(child, signal.SIGTERM)

    (guest,) = json.loads(pyvmm("ps", "--json").stdout)
    assert (guest["pid"], guest["state"]) == (process.pid, "running")
    process.terminate()
    assert process.wait(LIMIT) == 3


def test_parent_has_no_guest_memory_and_no_kvm(run: Run) -> None:
    process = run("--memory", "256M")
    child = vm_process(process)
    until(lambda: "kvm-vcpu" in "".join(descriptors(child)))

    held = descriptors(process.pid)
    mapped = Path(f"/proc/{process.pid}/maps").read_text()

    assert not [one for one in held if "kvm" in one or "memfd" in one]
    assert "memfd" not in mapped and "kvm" not in mapped


def test_terminal_of_a_machine_that_was_killed_is_put_back(stuck: list[str]) -> None:
    terminal = OnTerminal("run", "--firmware", SPIN, *stuck)
    try:
        terminal.expect(b"held")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 3
        until(lambda: terminal.restored)
    finally:
        terminal.close()


def test_escape_key_ends_a_machine_whose_loop_is_held(stuck: list[str]) -> None:
    terminal = OnTerminal("run", "--firmware", SPIN, *stuck)
    try:
        terminal.expect(b"held")
        until(lambda: terminal.raw)
        terminal.press(b"\x01x")
        assert terminal.wait() == 3
        until(lambda: terminal.restored)
        assert b"ended by the user; it did not react" in terminal.rest
    finally:
        terminal.close()


def test_vm_process_has_keys_by_a_pipe_and_not_the_terminal_to_read() -> None:
    terminal = OnTerminal("run", "--firmware", SPIN)
    try:
        terminal.expect(b"ing")
        held = f"/proc/{vm_process(terminal.process)}/fd"
        readable = []
        for entry in os.scandir(held):
            flags = Path(held + "info", entry.name).read_text().split("flags:")[1].split()[0]
            if (
                os.readlink(entry.path).startswith("/dev/pts/")
                and int(flags, 8) & os.O_ACCMODE != os.O_WRONLY
            ):
                readable.append(entry.name)
        assert readable == []
        assert os.readlink(f"{held}/0").startswith("pipe:")
    finally:
        terminal.close()


def test_job_whose_machine_does_not_answer_stops_and_goes_on_nevertheless(stuck: list[str]) -> None:
    terminal = OnTerminal("run", "--firmware", SPIN, *stuck)
    try:
        terminal.expect(b"held")
        terminal.signal(signal.SIGTSTP)
        assert terminal.stopped()
        child = vm_process(terminal.process)
        until(lambda: "State:\tT" in Path(f"/proc/{child}/status").read_text())
        terminal.signal(signal.SIGCONT)
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 3
    finally:
        terminal.close()


def test_vm_process_of_a_guest_that_ends_at_once_is_gone_soon_and_holds_no_output(tmp_path: Path) -> None:
    rom = tmp_path / "unique-exit.bin"
    shutil.copy(BIN / "exit.bin", rom)

    done = pyvmm("run", "--console", "none", "--firmware", str(rom))  # its output is read to the end

    assert (done.returncode, done.stdout, done.stderr) == (PASSED, b"", b"")
    until(lambda: not any(names(process, str(rom)) for process in Path("/proc").glob("[0-9]*")))


def names(process: Path, word: str) -> bool:
    """Whether *word* is on the command line of *process*, a directory of /proc."""
    try:
        return word.encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False  # gone meanwhile


def test_power_button_comes_first_where_that_is_asked_for(run: Run) -> None:
    process = run("--stop-with", "button,700ms")
    vm_process(process)
    begin = time.monotonic()

    process.terminate()

    assert process.wait(LIMIT) == 3
    assert time.monotonic() - begin >= 0.7
    assert process.stderr is not None
    assert b"ended by SIGTERM (told)" in process.stderr.read()


def test_second_signal_does_not_wait_for_a_guest_that_ignores_its_power_button(run: Run) -> None:
    process = run("--stop-with", "button,1h")
    vm_process(process)

    while process.poll() is None:
        process.terminate()
        select.select([], [], [], 0.05)  # two at once would be one

    assert process.returncode == 3


def test_timeout_presses_the_power_button_first(run: Run) -> None:
    begin = time.monotonic()
    process = run("--stop-with", "button,700ms", "--timeout", "300ms")

    assert process.wait(LIMIT) == 3
    assert time.monotonic() - begin >= 1.0


@pytest.mark.parametrize("given", ["button", "acpi,3s", "button,soon", "button,0"])
def test_way_to_stop_that_is_none_is_told_in_one_line(given: str) -> None:
    complains(pyvmm("run", "--firmware", SPIN, "--stop-with", given), 65, "--stop-with")
