"""Debian's stock arm64 kernel, unmodified."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.images.default import default_guest
from pyvmm.images.guest_files import GuestFiles
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import Transcript
from tests.support.linux import LIMIT, PROMPT, QUIET, boot

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(LIMIT + 30)]


@pytest.fixture(scope="session")
def stock() -> GuestFiles:
    return default_guest("arm64")


def test_stock_kernel_boots_to_a_shell_and_powers_off(stock: GuestFiles) -> None:
    # An answer is no longer than the port's FIFO: Transcript types without asking for room.
    console = Transcript(
        [(PROMPT, b"ls /sys/class/rtc\r"), (b"rtc0", b"cat /proc/interrupts\r"), (b"uart-pl011", b"exit\r")]
    )

    ending = boot(stock, console)

    assert f"pyvmm guest ready: Linux {stock.release} aarch64, 1 CPUs" in console.text
    assert re.search(r"GICv[23]|GIC-0", console.text)
    assert (ending.code, ending.reason, ending.known) == (0, "poweroff", "told"), ending


def test_stock_kernel_with_two_cpus_boots_and_reboots(stock: GuestFiles) -> None:
    console = Transcript([(PROMPT, b"reboot\r")])

    ending = boot(stock, console, cpus=2)

    assert f"Linux {stock.release} aarch64, 2 CPUs" in console.text
    assert (ending.code, ending.reason, ending.known) == (0, "reboot", "told"), ending


def test_stock_kernel_on_a_16550_boots_to_a_shell(stock: GuestFiles) -> None:
    console = Transcript([(PROMPT, b"exit\r")])

    ending = boot(stock, console, cmdline="console=ttyS0 quiet panic=-1", uart="16550,shift=2")

    assert "pyvmm guest ready" in console.text
    assert (ending.code, ending.reason) == (0, "poweroff"), ending


def test_stock_kernel_at_another_ram_base_and_uart_boots(stock: GuestFiles) -> None:
    console = Transcript([(PROMPT, b"grep RAM /proc/iomem; exit\r")])

    ending = boot(stock, console, ram_base=0x8000_0000, uart="pl011,base=0x1c090000,irq=12")

    assert "pyvmm guest ready" in console.text
    assert "80000000-" in console.text
    assert (ending.code, ending.reason) == (0, "poweroff"), ending


@pytest.mark.parametrize(
    ("seconds", "last"), [(-1, "Call trace:"), (0, "---[ end Kernel panic"), (2, "Rebooting in 2")]
)
def test_panic_when_it_happens_is_told_from_a_reboot_and_has_its_output(
    stock: GuestFiles, seconds: int, last: str
) -> None:
    console = Transcript([(PROMPT, b"echo c >/proc/sysrq-trigger\r")])

    ending = boot(stock, console, cmdline=QUIET.replace("panic=-1", f"panic={seconds}"))

    assert (ending.code, ending.reason, ending.known) == (7, "panic", "inferred"), ending
    assert "not syncing: sysrq triggered crash" in ending.detail
    assert last in console.text


def test_panicked_kernel_that_stays_is_found_by_its_log_though_nothing_tells_of_it(stock: GuestFiles) -> None:
    config = Config(kernel=stock.kernel, cmdline="panic=0 loglevel=0", console="none", cpus=2, timeout=LIMIT)

    with Machine(config, console=Transcript()) as machine:
        ending = machine.run()

    assert (ending.code, ending.reason, ending.known) == (7, "panic", "inferred"), ending
    assert "---[ end Kernel panic - not syncing: VFS" in ending.detail


def test_input_that_is_there_from_the_start_is_all_the_shells_and_halt_ends_the_guest() -> None:
    number = 1
    for _ in range(12):
        number = number * 3 + 7

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT)],
        input=b"n=1\n" + b"n=$((n * 3 + 7))\n" * 12 + b"echo sum-$n-\nhalt -f\n",
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    assert b"sum-%d-" % number in done.stdout, done
    assert done.returncode == 8 and b"pyvmm: halt:" in done.stderr, done


def test_power_button_when_pressed_shuts_the_guest_down(stock: GuestFiles) -> None:
    console = Transcript()
    config = Config(kernel=stock.kernel, initrd=stock.initrd, cmdline=QUIET, console="none", timeout=LIMIT)
    with Machine(config, console=console) as machine:
        machine.start()
        console.wait_for(PROMPT, LIMIT)
        machine.power_button()
        ending = machine.wait()

    assert (ending.code, ending.reason) == (0, "poweroff"), ending


def test_exec_when_its_command_ends_has_its_output_and_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), "--rng"]

    done = subprocess.run(
        [*command, "--exec", "uname -m; cat; ls /sys/bus/virtio/devices; exit 7"],
        input=b"from outside\n",
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    words = done.stdout.split()
    assert (done.returncode, words[:3]) == (7, [b"aarch64", b"from", b"outside"]), done.stderr
    assert b"virtio0" in words
