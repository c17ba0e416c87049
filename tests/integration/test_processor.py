"""The processor in all its modes: the guest programs find it as the manuals describe it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.firmware_guest import guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


@pytest.mark.parametrize(
    "name",
    [
        "hello0",
        "hello3",
        "hello32",
        "real_mode",
        "protected",
        "exceptions",
        "user_mode",
        pytest.param("paging32", marks=pytest.mark.hw),
        pytest.param("software_interrupt0", marks=pytest.mark.hw),
        pytest.param("software_interrupt3", marks=pytest.mark.hw),
        pytest.param("software_interrupt32", marks=pytest.mark.hw),
        pytest.param("system_call", marks=pytest.mark.hw),
        pytest.param("no_emulation", marks=pytest.mark.hw),
    ],
)
def test_mode_program_when_run_passes(tmp_path: Path, name: str) -> None:
    passes(guest(tmp_path, f"{name}.bin"), f"ok {name}")


@pytest.mark.parametrize("name", ["pic_timer", "apic_timer", "ioapic_com1"])
def test_interrupt_program_when_run_passes(tmp_path: Path, name: str) -> None:
    passes(guest(tmp_path, f"{name}.bin"), f"ok {name}")


@pytest.mark.parametrize("cpus", [1, 2, 16])
def test_smp_program_when_given_processors_starts_them_all(tmp_path: Path, cpus: int) -> None:
    passes(guest(tmp_path, "smp.bin", cpus, cpus=cpus), f"ok smp {cpus:#x}")


def test_smp_program_when_given_254_processors_starts_them_all(tmp_path: Path) -> None:
    passes(guest(tmp_path, "smp.bin", 254, cpus=254), "ok smp 0xfe")


def test_cpuid_when_four_processors_tells_four(tmp_path: Path) -> None:
    passes(guest(tmp_path, "smp.bin", cpus=4), "ok smp 0x4")
