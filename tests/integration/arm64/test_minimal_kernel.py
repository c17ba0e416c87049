"""The minimal kernel of ``pyvmm image kernel --arch arm64``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.images.default import default_guest
from pyvmm.images.kernel import minimal_kernel
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import Transcript
from tests.support.linux import LIMIT, PROMPT, QUIET

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(LIMIT + 30)]

#: Reads a few bytes of the device that virtio-rng's driver feeds, and says how the kernel found it.
LOOK = (
    "head -c 8 /dev/hwrng | wc -c; cd /sys/bus/virtio/drivers/virtio_rng; ls -d virtio?; "
    "ls /sys/firmware; cut -d' ' -f1 /proc/consoles"
)


@pytest.fixture
def kernel() -> Path:
    return minimal_kernel("arm64")


@pytest.mark.parametrize(("uart", "console"), [("pl011", "ttyAMA0"), ("16550", "ttyS0")])
def test_image_runs_a_command_and_finds_virtio_and_uart_by_the_device_tree(
    kernel: Path, uart: str, console: str
) -> None:
    options = [
        "--uart",
        uart,
        "--cmdline",
        f"console={console} quiet panic=-1",
        "--rng",
        "--timeout",
        str(LIMIT),
    ]
    guest = ["--kernel", str(kernel), "--initrd", default_guest("arm64").initrd]
    command = [sys.executable, "-m", "pyvmm", "run", *guest, *options, "--exec", LOOK]

    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT + 20, check=False)

    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.split() == ["8", "virtio0", "devicetree", "fdt", console]


def test_power_button_makes_the_guest_power_off_by_itself(kernel: Path) -> None:
    config = Config(
        kernel=str(kernel),
        initrd=default_guest("arm64").initrd,
        cmdline=QUIET,
        console="none",
        timeout=LIMIT,
    )
    console = Transcript()

    machine = Machine(config, console=console)
    machine.start()
    console.wait_for(PROMPT, LIMIT)
    machine.power_button()
    ending = machine.wait()

    assert (ending.code, ending.reason, ending.known) == (0, "poweroff", "told"), ending
