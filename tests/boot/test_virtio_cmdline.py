"""Which kernels are told of their virtio devices on the command line."""

from __future__ import annotations

import pytest

from pyvmm.boot.virtio_cmdline import device_parameters, with_devices
from tests.support.images import elf_of_sections

DEVICES = [(0xD000_0000, 16), (0xD000_1000, 17)]
WORDS = "virtio_mmio.device=4K@0xd0000000:16 virtio_mmio.device=4K@0xd0001000:17"
ELF = b"\x7fELF" + bytes(60)


@pytest.mark.parametrize(
    ("strings", "cmdline", "expected"),
    [
        (b"virtio-mmio-cmdline", "quiet", f"quiet {WORDS}"),
        (b"virtio-mmio-cmdline", "", WORDS),
        (b"virtio-mmio-cmdline LNRO0005", "quiet", "quiet"),
        (b"virtio-mmio-cmdline LNRO0005", "acpi=off", f"acpi=off {WORDS}"),
        (b"LNRO0005", "acpi=off", "acpi=off"),
        (b"virtio-mmio-cmdline", "quiet -- single", f"quiet {WORDS} -- single"),
        (b"virtio-mmio-cmdline LNRO0005", 'acpi="off"', f'acpi="off" {WORDS}'),
        (b"virtio-mmio-cmdline LNRO0005", "quiet -- acpi=off", "quiet -- acpi=off"),
        (b"virtio-mmio-cmdline LNRO0005", 'note="no acpi=off here"', 'note="no acpi=off here"'),
        (b"", "quiet", "quiet"),
    ],
)
def test_device_parameters_when_the_driver_is_built_so(strings: bytes, cmdline: str, expected: str) -> None:
    assert device_parameters(memoryview(ELF + strings), cmdline, DEVICES, 4096) == expected


def test_device_parameters_when_there_is_no_device_leaves_the_command_line() -> None:
    assert device_parameters(memoryview(ELF + b"virtio-mmio-cmdline"), "quiet", [], 4096) == "quiet"


def test_device_parameters_when_the_image_is_no_kernel_leaves_the_command_line() -> None:
    assert device_parameters(memoryview(b"nothing"), "quiet", DEVICES, 4096) == "quiet"


def test_device_parameters_when_the_kernel_lists_its_sections_go_by_its_constants() -> None:
    built_in = elf_of_sections({b".rodata": b"virtio-mmio-cmdline", b".text": b"LNRO0005"})
    elsewhere = elf_of_sections({b".rodata": b"nothing of it", b".text": b"virtio-mmio-cmdline"})

    assert device_parameters(built_in, "", DEVICES, 4096) == WORDS
    assert device_parameters(elsewhere, "", DEVICES, 4096) == ""


def test_with_devices_when_the_line_ends_in_arguments_of_init_stand_before_them() -> None:
    assert with_devices("quiet -- single", DEVICES, 4096) == f"quiet {WORDS} -- single"
