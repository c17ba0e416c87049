"""How a guest can end, each with its own code, and what it cannot do to the host."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pyvmm.arch.x86_64.host import PVM, virtualization
from tests.support.firmware_guest import PASSED, guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

emulated_ring0 = pytest.mark.skipif(virtualization() != PVM, reason="this KVM runs ring 0 in hardware")


def test_exit_program_when_run_ends_with_its_value(tmp_path: Path) -> None:
    ending = guest(tmp_path, "exit.bin").run()

    assert (ending.code, ending.reason, ending.known) == (PASSED, "debug-exit", "told")


def test_io_loop_when_it_floods_an_unclaimed_port_passes(tmp_path: Path) -> None:
    machine = guest(tmp_path, "io_loop.bin", 3000, 0x80)

    ending = machine.run()

    assert ending.code == PASSED
    assert machine.machine.ports.unclaimed_writes == 3000


@pytest.mark.parametrize(
    ("name", "code", "reason", "known"),
    [
        ("triple_fault", 7, "triple-fault", "inferred"),
        ("reset_i8042", 0, "reboot", "told"),
        ("poweroff_acpi", 0, "poweroff", "told"),
        ("pci_probe", 5, "unsupported", "told"),
    ],
)
def test_ending_when_guest_chooses_it_has_its_own_code(
    tmp_path: Path, name: str, code: int, reason: str, known: str
) -> None:
    ending = guest(tmp_path, f"{name}.bin").run()

    assert (ending.code, ending.reason, ending.known) == (code, reason, known)


def test_firmware_when_it_probes_what_is_missing_is_told_its_name(tmp_path: Path) -> None:
    ending = guest(tmp_path, "pci_probe.bin").run()

    assert "the firmware uses PCI" in ending.detail


def test_firmware_when_it_asks_for_fw_cfg_finds_it(tmp_path: Path) -> None:
    passes(guest(tmp_path, "fw_cfg.bin"), "ok fw_cfg")
    passes(guest(tmp_path, "fw_cfg_dma.bin", 2, cpus=2), "ok fw_cfg_dma")


@emulated_ring0
@pytest.mark.parametrize(
    ("name", "instruction"), [("no_emulation", "popcnt eax, ecx"), ("software_interrupt0", "int 0x33")]
)
def test_instruction_when_kvm_cannot_emulate_it_is_named(tmp_path: Path, name: str, instruction: str) -> None:
    ending = guest(tmp_path, f"{name}.bin").run()

    assert (ending.code, ending.known) == (5, "inferred")
    assert f"`{instruction}`" in ending.detail
    assert "PVM" in ending.detail


@pytest.mark.parametrize(("name", "words"), [("hlt", b"halting"), ("spin", b"spinning")])
def test_guest_that_never_exits_when_stopped_ends_within_100_ms(
    tmp_path: Path, name: str, words: bytes
) -> None:
    took = []
    for _ in range(5):  # the fastest counts: a busy or emulated host adds its own
        machine = guest(tmp_path, f"{name}.bin")
        machine.machine.start()
        machine.console.wait_for(words)

        begin = time.monotonic()
        machine.machine.stop()
        ending = machine.machine.wait()
        took.append(time.monotonic() - begin)

        assert (ending.code, ending.reason) == (3, "stopped")
    assert min(took) < 0.1, took


@pytest.mark.parametrize("name", ["hlt", "spin"])
def test_guest_that_never_exits_when_timed_ends_by_timeout(tmp_path: Path, name: str) -> None:
    ending = guest(tmp_path, f"{name}.bin", timeout=0.3).run()

    assert (ending.code, ending.reason) == (3, "timeout")


def test_hypercall_when_no_handler_is_there_ends_the_guest(tmp_path: Path) -> None:
    ending = guest(tmp_path, "vmcall.bin", timeout=2).run()

    # Answered by KVM, refused with a fault nobody handles, or never coming back: all must end.
    assert (ending.code, ending.reason) in {(PASSED, "debug-exit"), (7, "triple-fault"), (3, "timeout")}
