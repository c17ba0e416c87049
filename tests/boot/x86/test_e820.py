from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot.x86.e820 import E820_NVS, E820_RAM, E820_RESERVED, build_e820
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from tests.support.images import MIB, ram


def test_build_e820_when_ram_is_below_the_gap_reserves_the_area_up_to_1_mib() -> None:
    with ram(256 * MIB) as memory:
        found = build_e820(memory)

    assert found == [
        (0, 0x9FC00, E820_RAM),
        (0x9FC00, 0x60400, E820_RESERVED),
        (MIB, 255 * MIB, E820_RAM),
    ]


def test_build_e820_when_ram_has_several_host_objects_hides_their_seams() -> None:
    with ram(64 * MIB, 32 * MIB, 3 << 30) as memory:
        found = build_e820(memory)

    assert found[2:] == [(MIB, (3 << 30) - MIB, E820_RAM), (4 << 30, 96 * MIB, E820_RAM)]


def test_build_e820_when_a_range_in_ram_is_reserved_cuts_it_out() -> None:
    with ram(64 * MIB) as memory:
        found = build_e820(memory, [(32 * MIB, MIB, E820_NVS)])

    assert found[2:] == [
        (MIB, 31 * MIB, E820_RAM),
        (32 * MIB, MIB, E820_NVS),
        (33 * MIB, 31 * MIB, E820_RAM),
    ]


def test_build_e820_when_a_region_is_read_only_reserves_it() -> None:
    regions = [
        Region(0, 16 * MIB, Anonymous(16 * MIB)),
        Region(0xFFFF0000, 0x10000, Anonymous(0x10000), readonly=True, name="rom"),
    ]
    memory = GuestMemory(regions)

    found, spans = build_e820(memory), memory.ram_spans()
    memory.close()

    assert found[-1] == (0xFFFF0000, 0x10000, E820_RESERVED)
    assert spans == [(0, 16 * MIB)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 80), st.integers(1, 40), st.sampled_from([2, 3, 4])), max_size=6))
def test_build_e820_when_reservations_are_random_is_ascending_disjoint_and_honours_them(
    wanted: list[tuple[int, int, int]],
) -> None:
    reserved = [(base * MIB, size * MIB, kind) for base, size, kind in wanted]
    with ram(64 * MIB) as memory:
        found = build_e820(memory, reserved)

    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(found))
    for base, size, _ in reserved:
        overlapping = [kind for low, length, kind in found if low < base + size and base < low + length]
        assert overlapping
        assert E820_RAM not in overlapping
