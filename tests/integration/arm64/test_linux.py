"""Debian's stock arm64 kernel, unmodified."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.images.default import DefaultGuest, default_guest
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import Transcript
from tests.support.linux import LIMIT, PROMPT, QUIET, boot

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(LIMIT + 30)]


@pytest.fixture(scope="session")
def stock() -> DefaultGuest:
    return default_guest("arm64")


def test_stock_kernel_boots_to_a_shell_and_powers_off(stock: DefaultGuest) -> None:
    # An answer is no longer than the port's FIFO: Transcript types without asking for room.
    console = Transcript(
        [(PROMPT, b"ls /sys/class/rtc\r"), (b"rtc0", b"cat /proc/interrupts\r"), (b"uart-pl011", b"exit\r")]
    )

    ending = boot(stock, console)

    assert f"pyvmm guest ready: Linux {stock.release} aarch64, 1 CPUs" in console.text
    assert re.search(r"GICv[23]|GIC-0", console.text)
    assert (ending.code, ending.reason, ending.known) == (0, "poweroff", "told"), ending


def test_stock_kernel_with_two_cpus_boots_and_reboots(stock: DefaultGuest) -> None:
    console = Transcript([(PROMPT, b"reboot\r")])

    ending = boot(stock, console, cpus=2)

    assert f"Linux {stock.release} aarch64, 2 CPUs" in console.text
    assert (ending.code, ending.reason, ending.known) == (0, "reboot", "told"), ending


def test_stock_kernel_on_a_16550_boots_to_a_shell(stock: DefaultGuest) -> None:
    console = Transcript([(PROMPT, b"exit\r")])

    ending = boot(stock, console, cmdline="console=ttyS0 quiet panic=-1", uart="16550,shift=2")

    assert "pyvmm guest ready" in console.text
    assert (ending.code, ending.reason) == (0, "poweroff"), ending


def test_stock_kernel_at_another_ram_base_and_uart_boots(stock: DefaultGuest) -> None:
    console = Transcript([(PROMPT, b"grep RAM /proc/iomem; exit\r")])

    ending = boot(stock, console, ram_base=0x8000_0000, uart="pl011,base=0x1c090000,irq=12")

    assert "pyvmm guest ready" in console.text
    assert "80000000-" in console.text
    assert (ending.code, ending.reason) == (0, "poweroff"), ending


def test_panic_when_it_happens_is_told_from_a_reboot(stock: DefaultGuest) -> None:
    console = Transcript([(PROMPT, b"echo c >/proc/sysrq-trigger\r")])

    ending = boot(stock, console)

    assert (ending.code, ending.reason) == (7, "panic"), ending


def test_input_that_is_there_from_the_start_is_all_the_shells_and_halt_ends_the_guest() -> None:
    line = b": 456789 123456789 123456789 123456789 123456789 123456789 123\n"

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT)],
        input=b"echo A-%s-Z\n" % b"0123456789" + line * 30 + b"echo B-$((40 + 2))-Z\nhalt -f\n",
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )

    said = done.stdout.replace(b"\r\n", b"\n")
    assert b"\nA-0123456789-Z\n" in said and b"\nB-42-Z\n" in said, done
    assert done.returncode == 8 and b"pyvmm: halt:" in done.stderr, done


def test_power_button_when_pressed_shuts_the_guest_down(stock: DefaultGuest) -> None:
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
