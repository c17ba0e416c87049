"""A virtio device on a real KVM, driven by guest programs: at full speed, and by breaking every rule.

The programs run at CPL 3, which every KVM runs natively: the guest's processor and the device's thread are at
the rings at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.firmware_guest import Guest, guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(180)]

REGISTERS = 0xD000_0000


def with_rng(tmp_path: Path, name: str, *parameters: int, **keys: object) -> Guest:
    machine = guest(tmp_path, name, REGISTERS, *parameters, rng=True, timeout=90.0, **keys)
    bus = machine.machine.virtio
    assert bus is not None and bus.attached[0].base == REGISTERS
    return machine


@pytest.mark.parametrize("mode", [0, 1, 2], ids=["event-index", "flags", "polling"])
def test_rng_when_driven_at_full_speed_serves_all_and_no_wake_up_is_lost(tmp_path: Path, mode: int) -> None:
    passes(with_rng(tmp_path, "virtio_rng.bin", 2000, mode), "ok virtio_rng")


def test_rng_when_rings_and_buffers_lie_across_a_seam_serves_all(tmp_path: Path) -> None:
    # The program, its rings and its buffers are at 1 MiB: a seam at every page of the first 80 KiB behind it.
    parts = [{"size": 1 << 20}, *[{"size": 4096, "backing": "memfd"}] * 20, {"size": "15M"}]

    passes(with_rng(tmp_path, "virtio_rng.bin", 300, memory=parts), "ok virtio_rng")


def test_hostile_driver_is_refused_stopped_or_answered_and_then_served(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    passes(with_rng(tmp_path, "virtio_hostile.bin"), "ok virtio_hostile")

    told = capfd.readouterr().err.splitlines()
    assert any("was refused" in line for line in told)
    assert any("does not start" in line for line in told)
    assert len(told) < 100, "a hostile guest fills no disk"
