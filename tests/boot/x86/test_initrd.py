from __future__ import annotations

import pytest

from pyvmm.boot.errors import DoesNotFitError
from pyvmm.boot.x86.e820 import E820_RESERVED, build_e820
from pyvmm.boot.x86.initrd import load_initrds
from pyvmm.boot.x86.params import BootParams
from tests.support.images import MIB, params, ram

KERNEL = (16 * MIB, 20 * MIB)


def test_load_initrds_when_there_are_several_starts_each_at_a_multiple_of_4() -> None:
    with ram(64 * MIB) as memory:
        base, size = load_initrds(memory, params(memory, "", b"abcde", b"", b"fg"), KERNEL, 0x7FFFFFFF)

        assert memory.read(base, size) == b"abcde\0\0\0fg"
        assert base % 4096 == 0


def test_load_initrds_when_there_is_room_goes_to_the_end_of_memory() -> None:
    with ram(64 * MIB) as memory:
        base, size = load_initrds(memory, params(memory, "", bytes(5000)), KERNEL, 0x7FFFFFFF)

    assert (base, size) == (64 * MIB - 8192, 5000)


def test_load_initrds_when_the_kernel_has_a_limit_ends_at_or_below_it() -> None:
    with ram(64 * MIB) as memory:
        base, size = load_initrds(memory, params(memory, "", bytes(4096)), KERNEL, 0x1FFFFFF)

    assert base + size - 1 == 0x1FFFFFF


def test_load_initrds_when_the_end_of_memory_is_reserved_stays_below_it() -> None:
    with ram(64 * MIB) as memory:
        e820 = build_e820(memory, [(60 * MIB, 4 * MIB, E820_RESERVED)])

        base, size = load_initrds(memory, BootParams("", [bytes(4096)], e820), KERNEL, 0x7FFFFFFF)

    assert base + size == 60 * MIB


def test_load_initrds_when_ram_goes_on_above_4_gib_stays_below() -> None:
    with ram((3 << 30) + 64 * MIB) as memory:
        base, _ = load_initrds(memory, params(memory, "", b"x"), KERNEL, 0xFFFFFFFF)

    assert base == 0xC0000000 - 4096


def test_load_initrds_when_only_the_room_under_the_kernel_is_left_uses_it() -> None:
    with ram(24 * MIB) as memory:
        base, _ = load_initrds(memory, params(memory, "", bytes(8 * MIB)), KERNEL, 0x7FFFFFFF)

    assert base == 8 * MIB


def test_load_initrds_when_there_is_none_writes_nothing() -> None:
    with ram(64 * MIB) as memory:
        assert load_initrds(memory, params(memory), KERNEL, 0x7FFFFFFF) == (0, 0)
        assert load_initrds(memory, params(memory, "", b""), KERNEL, 0x7FFFFFFF) == (0, 0)


def test_load_initrds_when_larger_than_memory_refuses_with_the_sizes() -> None:
    with (
        ram(64 * MIB) as memory,
        pytest.raises(DoesNotFitError, match=r"46200000 bytes.*no such room below 0x4000000"),
    ):
        load_initrds(memory, params(memory, "", bytes(46_200_000)), KERNEL, 0x7FFFFFFF)


def test_load_initrds_when_there_is_room_only_above_the_usual_limit_goes_there() -> None:
    low, middle, high = 0x1FFFFFF, 0xFFFFFFFF, (1 << 64) - 1
    with ram((3 << 30) + 64 * MIB) as memory:
        given = params(memory, "", b"x")
        kernel = (16 * MIB, 32 * MIB)
        # 16 MiB are left below the kernel, and what is above it up to 32 MiB is none.
        small, large = [bytes(4096)], [bytes(17 * MIB)]

        given.initrds = small
        assert load_initrds(memory, given, kernel, low, middle, high)[0] < 16 * MIB
        given.initrds = large
        assert load_initrds(memory, given, kernel, low, middle, high)[0] == 0xC0000000 - 17 * MIB
        given.e820 = [given.e820[0], (MIB, 32 * MIB, 1), (1 << 32, 64 * MIB, 1)]
        assert load_initrds(memory, given, kernel, low, middle, high) == ((1 << 32) + 47 * MIB, 17 * MIB)
        with pytest.raises(
            DoesNotFitError, match="below 0x2000000, where this kernel wants it; make the initrd"
        ):
            load_initrds(memory, given, kernel, low)
