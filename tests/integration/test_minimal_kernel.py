"""The minimal kernel of ``pyvmm image kernel`` on a KVM that runs ring 0 in hardware: here or in the lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.images.default import default_guest
from pyvmm.images.kernel import minimal_kernel
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import Transcript
from tests.support.linux import LIMIT, PROMPT, QUIET, execute

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

#: Reads a few bytes of the device that virtio-rng's driver feeds, and says how the kernel found it.
LOOK = (
    "head -c 8 /dev/hwrng | wc -c; cd /sys/bus/virtio/drivers/virtio_rng; ls -d virtio?; "
    "ls -d /sys/firmware/acpi; uname -r"
)


@pytest.fixture
def kernel() -> Path:
    return minimal_kernel()


def run(image: Path, *options: str) -> list[str]:
    kernel = ["--kernel", str(image), "--initrd", default_guest().initrd]
    done = execute(*kernel, "--rng", *options, command=LOOK)
    assert done.stderr.decode() in ("", "ls: /sys/firmware/acpi: No such file or directory\n"), done
    return done.stdout.decode().split()


def test_bzimage_when_unpacked_here_runs_a_command_and_finds_virtio_by_acpi(kernel: Path) -> None:
    said = run(kernel)

    assert said[:3] == ["8", "virtio0", "/sys/firmware/acpi"]


def test_elf_when_acpi_is_off_finds_virtio_by_its_command_line(kernel: Path) -> None:
    said = run(kernel.with_name("vmlinux"), "--cmdline", "console=ttyS0 quiet panic=-1 acpi=off")

    assert said[:2] == ["8", "virtio0"]
    assert "/sys/firmware/acpi" not in said


def test_kernel_without_acpi_finds_two_cpus_in_the_mp_table(kernel: Path) -> None:
    # Debian's cloud kernel is built without CONFIG_X86_MPPARSE; the generic one boots for minutes.
    console = Transcript([(PROMPT, b"reboot\r")])
    config = Config(
        kernel=str(kernel),
        initrd=default_guest().initrd,
        cmdline=f"{QUIET} acpi=off reboot=k",
        cpus=2,
        console="none",
        timeout=LIMIT,
    )

    with Machine(config, console=console) as machine:
        ending = machine.run()

    assert "x86_64, 2 CPUs" in console.text
    assert (ending.code, ending.reason) == (0, "reboot"), ending
    assert "keyboard controller" in ending.detail
