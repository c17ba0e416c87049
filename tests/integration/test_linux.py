"""Debian's stock kernel, unmodified, on a KVM that runs ring 0 in hardware: here or in the lab."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.images.default import default_guest
from pyvmm.images.guest_files import GuestFiles
from pyvmm.machine.machine import Machine
from tests.support.command import OnTerminal, until
from tests.support.firmware_guest import Transcript
from tests.support.linux import LIMIT, PROMPT, QUIET, boot, execute

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]


@pytest.fixture(scope="session")
def stock() -> GuestFiles:
    return default_guest()


def test_bzimage_with_its_own_decompressor_boots_to_a_shell_and_powers_off(stock: GuestFiles) -> None:
    console = Transcript([(PROMPT, b"exit\r")])

    ending = boot(stock, console, boot="bzimage")

    assert f"pyvmm guest ready: Linux {stock.release} x86_64, 1 CPUs" in console.text
    assert (ending.code, ending.reason, ending.known) == (0, "poweroff", "told"), ending


def test_bzimage_unpacked_on_the_host_boots_two_cpus_and_reboots(stock: GuestFiles) -> None:
    console = Transcript([(PROMPT, b"reboot\r")])

    ending = boot(stock, console, cpus=2)

    assert f"Linux {stock.release} x86_64, 2 CPUs" in console.text
    assert (ending.code, ending.reason, ending.known) == (0, "reboot", "told"), ending


def test_kernel_without_init_panics_and_that_is_inferred_from_its_log_without_any_console(
    stock: GuestFiles,
) -> None:
    config = Config(kernel=stock.kernel, cmdline="panic=-1", console="none", timeout=LIMIT)
    console = Transcript()

    with Machine(config, console=console) as machine:
        ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (7, "panic", "inferred"), ending
    assert "Kernel panic - not syncing: VFS" in ending.detail
    assert console.data == b""


def test_panicked_kernel_that_stays_is_found_by_its_log_though_nothing_tells_of_it(stock: GuestFiles) -> None:
    config = Config(kernel=stock.kernel, cmdline="panic=0 loglevel=0", console="none", timeout=LIMIT)

    with Machine(config, console=Transcript()) as machine:
        ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (7, "panic", "inferred"), ending
    assert "---[ end Kernel panic - not syncing: VFS" in ending.detail


def test_panic_that_programs_write_of_is_none(stock: GuestFiles) -> None:
    text = "Kernel panic - not syncing: old log"
    command = f"for to in console kmsg; do echo '{text}' >/dev/$to; echo '<0>{text}' >/dev/$to; "
    command += f"echo '---[ end {text} ]---' >/dev/$to; done; sleep 2; echo al''ive; reboot -f\r"
    console = Transcript([(PROMPT, command.encode())])

    ending = boot(stock, console)

    assert "alive" in console.text
    assert (ending.code, ending.reason, ending.known) == (0, "reboot", "told"), ending


def test_panic_of_a_kernel_that_is_to_stay_is_told_and_its_output_complete(stock: GuestFiles) -> None:
    console = Transcript([(PROMPT, b"echo c >/proc/sysrq-trigger\r")])

    ending = boot(stock, console, cmdline=QUIET.replace("panic=-1", "panic=0"))

    assert (ending.code, ending.reason, ending.known) == (7, "panic", "told"), ending
    assert "---[ end Kernel panic - not syncing: sysrq triggered crash ]---" in console.text


def test_power_button_makes_the_guest_power_off_by_itself(stock: GuestFiles) -> None:
    config = Config(kernel=stock.kernel, initrd=stock.initrd, cmdline=QUIET, console="none", timeout=LIMIT)
    console = Transcript()

    machine = Machine(config, console=console)
    machine.start()
    console.wait_for(PROMPT, LIMIT)
    machine.power_button()
    ending = machine.wait()

    assert (ending.code, ending.reason, ending.known) == (0, "poweroff", "told"), ending


def test_memory_of_four_and_a_half_gib_lies_on_both_sides_of_the_gap() -> None:
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    command = "grep MemTotal /proc/meminfo; grep 'System RAM' /proc/iomem"

    done = execute("--memory", "4.5G", command=command)

    assert done.returncode == 0, done
    words = done.stdout.split()
    assert int(words[1]) << 10 > 4 << 30
    assert b"100000000-15fffffff : System RAM" in done.stdout
    if os.environ.get("PYVMM_LAB"):
        assert host < 4 << 30, "the lab has less memory than the guest, which is the point"


def test_exec_passes_status_streams_and_binary_input_through() -> None:
    data = bytes(range(256)) * 80
    command = (
        "nproc; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; echo e >&2; cat; exit 7"
    )

    done = execute("--cpus", "2", command=command, stdin=data)

    assert done.stdout == b"2\nkvm-clock\n" + data
    assert (done.returncode, done.stderr) == (7, b"e\n")


def test_two_execs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "--exec"]
    first = subprocess.Popen(
        [*command, "echo first; exit 3"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    second = subprocess.Popen(
        [*command, "echo second; exit 4"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )

    outputs = first.communicate(timeout=LIMIT)[0], second.communicate(timeout=LIMIT)[0]

    assert outputs == (b"first\n", b"second\n")
    assert (first.returncode, second.returncode) == (3, 4)


def test_exec_in_a_guest_that_panics_ends_with_the_crash_code_and_shows_its_last_words() -> None:
    done = execute("--result", "/dev/null", command="echo c > /proc/sysrq-trigger")

    assert done.returncode == 7, done
    _, shown, last = done.stderr.partition(b"the last lines of the guest's console:\n")
    assert shown, done.stderr
    console, _, message = last.partition(b"pyvmm: panic:")
    assert b"Kernel panic - not syncing: sysrq triggered crash" in console
    assert b"Kernel panic - not syncing: sysrq triggered crash" in message


def test_exec_whose_link_to_the_guest_fails_says_why_and_ends_the_guest(tmp_path: Path) -> None:
    result = tmp_path / "result.json"

    done = execute("--result", str(result), command="kill -9 $PPID; sleep 1000")

    reason = "the guest's exec server began anew while the command was running"
    assert (done.returncode, done.stdout) == (5, b""), done
    assert done.stderr.decode().splitlines()[-1].startswith(f"pyvmm: exec: {reason}"), done
    assert b"Traceback" not in done.stderr
    record = json.loads(result.read_text())
    assert (record["code"], record["reason"], "status" in record) == (5, "exec", False)
    assert record["detail"].startswith(reason)


def test_exec_when_the_guest_powers_off_before_the_command_ends_is_a_crash() -> None:
    done = execute(command="poweroff -f; sleep 60")

    assert done.returncode == 7, done
    assert b"before the command had ended" in done.stderr


def test_exec_on_a_terminal_stops_as_a_job_and_goes_on() -> None:
    # In the guest `read` waits for a line, so the job is stopped in the middle of the command.
    command = "tty; stty size; read line; echo got $line; exit 9"
    terminal = OnTerminal("run", "--timeout", str(LIMIT), "--exec", command)
    try:
        terminal.expect(b"/dev/")
        assert terminal.raw
        terminal.signal(signal.SIGTSTP)
        assert terminal.stopped()
        assert terminal.restored
        terminal.signal(signal.SIGCONT)
        until(lambda: terminal.raw)
        terminal.press(b"words\r")
        terminal.expect(b"got words")

        assert terminal.wait() == 9
        assert terminal.restored
    finally:
        terminal.close()
