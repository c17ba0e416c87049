"""A guest whose machine is in a process of its own: what is confined, told, and left when something ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pyvmm
from pyvmm.errors import ConfigError, StartError
from pyvmm.guest.guest import Guest
from tests.support.command import ROOT, environment, until
from tests.support.firmware_guest import BIN, PASSED, WATCHDOG

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

LIMIT = WATCHDOG
ECHO, SPIN = str(BIN / "echo.bin"), str(BIN / "spin.bin")


def children(pid: int | str) -> list[str]:
    """The processes that *pid*, or a thread of its, has made."""
    try:
        tasks = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
        return [child for task in tasks for child in task.read_text().split()]
    except OSError:
        return []


def processes_of(guest: Guest, program: int | str = "self") -> tuple[int, int]:
    """The guest's parent and its VM process: the only ones of *program* that have such a child."""
    found: list[tuple[int, int]] = []

    def there() -> bool:
        found[:] = [(int(one), int(below)) for one in children(program) for below in children(one)]
        return len(found) == 1

    until(there)
    return found[0]


def gone(pid: int) -> bool:
    """Whether process *pid* has ended."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_machine_is_in_a_confined_process_and_the_program_has_no_vm() -> None:
    with Guest(firmware=SPIN, timeout=WATCHDOG) as guest:
        parent, machine = processes_of(guest)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{machine}/status").read_text().splitlines()
            if ":\t" in line
        )
        opened = [
            os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)
        ]

        assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("2", "1", 0)
        assert not [name for name in opened if "kvm" in name]
        with pytest.raises(ConfigError, match="in_process=True"):
            _ = guest.machine
    assert gone(parent) and gone(machine)


def test_sandbox_off_confines_nothing() -> None:
    with Guest(firmware=SPIN, timeout=WATCHDOG, sandbox="off") as guest:
        _, machine = processes_of(guest)

        assert "Seccomp:\t0\n" in Path(f"/proc/{machine}/status").read_text()
    with pytest.raises(ConfigError, match="sandbox=perhaps"):
        Guest(firmware=SPIN, sandbox="perhaps")


def test_vm_process_that_is_killed_is_the_guests_end() -> None:
    with Guest(firmware=SPIN, timeout=WATCHDOG) as guest:
        parent, machine = processes_of(guest)
        os.kill(machine, signal.SIGKILL)

        ending = guest.wait(LIMIT)
    assert (ending.code, ending.reason) == (96, "internal")
    assert "ended by SIGKILL" in ending.detail
    assert gone(parent)


def test_parent_that_is_killed_is_the_guests_end() -> None:
    with Guest(firmware=SPIN, timeout=WATCHDOG) as guest:
        parent, machine = processes_of(guest)
        os.kill(parent, signal.SIGKILL)

        assert guest.wait(LIMIT).code == 96
    until(lambda: gone(machine))


PROGRAM = f"""
import sys, time
from pyvmm import Guest
guest = Guest(firmware={SPIN!r}, timeout={WATCHDOG}).__enter__()
guest.console.expect("spin", 30)
print("runs", flush=True)
time.sleep(1000)
"""


def test_program_that_is_killed_leaves_no_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment(), cwd=ROOT, stdout=subprocess.PIPE
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"runs\n"
            found = [int(one) for one in children(program.pid)]
            found += [int(below) for one in found for below in children(one)]
        finally:
            program.kill()
    assert len(found) == 2
    for pid in found:
        until(lambda pid=pid: gone(pid))


def test_vm_process_that_hangs_is_killed_when_the_guest_is_to_end() -> None:
    with Guest(firmware=SPIN, timeout=WATCHDOG) as guest:
        _, machine = processes_of(guest)
        os.kill(machine, signal.SIGSTOP)

        ending = guest.kill()

    assert (ending.code, ending.reason) == (3, "stopped")
    assert "did not react for 5 seconds" in ending.detail


def test_vm_process_that_hangs_is_killed_when_its_time_is_over() -> None:
    with Guest(firmware=SPIN, timeout=2) as guest:
        _, machine = processes_of(guest)
        os.kill(machine, signal.SIGSTOP)

        ending = guest.wait(LIMIT)

    assert (ending.code, ending.reason) == (3, "timeout")


def test_what_is_wrong_with_the_machine_is_raised_as_it_is_in_this_process(tmp_path: Path) -> None:
    for keys, kind, words in (
        ({"firmware": str(tmp_path / "none.bin")}, StartError, "none.bin"),
        ({"firmware": ECHO, "disk": [str(tmp_path / "none.img")]}, StartError, "none.img"),
        ({"firmware": ECHO, "kvm_path": str(tmp_path / "kvm")}, StartError, "kvm"),
    ):
        messages = []
        for own in (True, False):
            with pytest.raises(kind, match=words) as caught:
                Guest(**keys, in_process=own)  # type: ignore[arg-type]
            messages.append((type(caught.value), str(caught.value)))
        assert messages[0] == messages[1]
    assert children("self") == [one for one in children("self") if not children(one)]


def test_guest_is_made_and_driven_by_threads_that_have_ended() -> None:
    made: list[Guest] = []

    def make() -> None:
        made.append(Guest(firmware=ECHO, timeout=WATCHDOG))
        made[0].start()

    for step in (make, lambda: made[0].console.expect("ready", LIMIT)):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    made[0].console.control("d")
    assert made[0].wait(LIMIT).code == PASSED
    made[0].close()


def test_reports_of_the_vm_process_come_by_logging(caplog: pytest.LogCaptureFixture) -> None:
    hostile = str(BIN / "virtio_hostile.bin")
    with caplog.at_level(logging.WARNING), Guest(firmware=hostile, rng=True, timeout=WATCHDOG) as guest:
        guest.wait(LIMIT)

    found = [record for record in caplog.records if record.name.startswith("pyvmm.virtio")]
    assert found
    assert found[0].getMessage().startswith("rng0: ")


def test_descriptors_and_processes_of_the_program_stay_as_many() -> None:
    def use() -> None:
        with Guest(firmware=ECHO, timeout=WATCHDOG) as guest:
            guest.console.expect("ready", LIMIT)

    use()
    before = len(os.listdir("/proc/self/fd")), len(children("self")), threading.active_count()
    for _ in range(5):
        use()
    assert (len(os.listdir("/proc/self/fd")), len(children("self")), threading.active_count()) == before


def test_pause_and_resume_before_the_start_hold_the_guest() -> None:
    guest = Guest(firmware=ECHO, timeout=WATCHDOG)
    guest.pause()
    with guest:
        with pytest.raises(pyvmm.GuestTimeout):
            guest.console.expect("ready", 0.2)
        guest.resume()
        guest.console.expect("ready", LIMIT)


def test_guest_on_a_switch_is_in_the_process_that_has_the_switch() -> None:
    with Guest(firmware=SPIN, net="switch:lan", timeout=WATCHDOG) as guest:
        assert guest.machine.devices["net0"]
