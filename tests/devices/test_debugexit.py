from __future__ import annotations

import pytest

from pyvmm.devices.debugexit import DebugExit


@pytest.mark.parametrize("value", [0, 1, 0xFF])
def test_write_when_made_gives_the_byte_to_the_machine(value: int) -> None:
    exits: list[int] = []

    DebugExit(exits.append).write(0, 1, value)

    assert exits == [value]


def test_read_when_made_gives_all_ones_and_ends_nothing() -> None:
    exits: list[int] = []

    assert DebugExit(exits.append).read(0, 1) == 0xFF
    assert exits == []


def test_save_when_loaded_elsewhere_is_accepted() -> None:
    state = DebugExit(print).save()

    DebugExit(print).load(state)

    assert state == {"version": 1}
