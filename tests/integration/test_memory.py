"""Guest RAM out of several host objects is one memory to the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.firmware_guest import guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("backing", ["anonymous", "memfd"])
@pytest.mark.parametrize("seam", [4 * MIB, 4 * MIB + 4096], ids=["at-2M-border", "at-page-border"])
def test_seam_when_written_across_is_not_seen(tmp_path: Path, level: int, backing: str, seam: int) -> None:
    parts = [{"size": seam, "backing": backing}, {"size": 16 * MIB - seam}]
    machine = guest(tmp_path, f"seam{level}.bin", seam, memory=parts)
    memory = machine.machine.memory
    across: list[bytes] = []
    machine.at_end(lambda: across.extend(bytes(view) for view in memory.views(seam - 8, 16)))

    passes(machine, f"ok seam{level}")

    assert across == [bytes(range(0x10, 0x18)), bytes(range(0x18, 0x20))]


def test_sweep_when_memory_is_small_finds_every_mark(tmp_path: Path) -> None:
    passes(guest(tmp_path, "sweep.bin", 64 * MIB, memory="64M"), "ok sweep")


def test_sweep_when_memory_lies_around_the_gap_finds_every_mark(tmp_path: Path) -> None:
    # 64 MiB apart: huge pages make each mark cost 2 MiB of host memory.
    step = 64 * MIB
    machine = guest(tmp_path, "sweep.bin", 3 * GIB, 3 * GIB // 2, step, memory="4.5G")

    passes(machine, "ok sweep")
