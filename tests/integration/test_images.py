"""Images other than a ROM are entered as their formats say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.firmware_guest import BIN, PASSED, guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


@pytest.mark.parametrize("name", ["elf32", "elf64"])
def test_elf_firmware_when_run_finds_its_entry_state(tmp_path: Path, name: str) -> None:
    passes(guest(tmp_path, f"{name}.elf"), f"ok {name}")


@pytest.mark.parametrize("name", ["multiboot1", "multiboot2"])
def test_multiboot_kernel_when_run_finds_memory_command_line_and_modules(tmp_path: Path, name: str) -> None:
    modules = [tmp_path / "one", tmp_path / "two"]
    modules[0].write_text("first module")
    modules[1].write_text("second")
    machine = guest(
        tmp_path,
        f"{name}.elf",
        firmware=None,
        kernel=str(BIN / f"{name}.elf"),
        cmdline="root=none quiet",
        initrd=[str(module) for module in modules],
        memory="32M",
    )

    ending = machine.run()

    available = 0x9FC00 + 31 * (1 << 20)
    assert ending.code == PASSED, machine.console.text
    assert machine.console.text == (
        f"ok {name} memory {available:#x} cmdline 'root=none quiet' module 'first module' module 'second'\n"
    )
