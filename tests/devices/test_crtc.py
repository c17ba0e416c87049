"""The CRT controller's registers keep the cursor."""

from __future__ import annotations

import pytest

from pyvmm.devices.crtc import DATA, INDEX, Crtc

CURSOR_HIGH, CURSOR_LOW = 14, 15


def test_cursor_when_set_reads_back_and_begins_at_zero() -> None:
    crtc = Crtc()
    for register, value in ((CURSOR_HIGH, 0x07), (CURSOR_LOW, 0x9F)):
        crtc.write(INDEX, 1, register)
        assert crtc.read(DATA, 1) == 0
        crtc.write(DATA, 1, value)

    crtc.write(INDEX, 1, CURSOR_HIGH)
    assert (crtc.read(INDEX, 1), crtc.read(DATA, 1)) == (CURSOR_HIGH, 0x07)


def test_word_when_written_sets_index_and_register() -> None:
    crtc = Crtc()

    crtc.write(INDEX, 2, 0x5A0F)

    assert crtc.read(INDEX, 2) == 0x5A0F


@pytest.mark.parametrize("index", [0x19, 0x3F, 0xFF])
def test_register_that_does_not_exist_keeps_nothing(index: int) -> None:
    crtc = Crtc()
    crtc.write(INDEX, 1, index)
    crtc.write(DATA, 1, 0xAA)

    assert (crtc.read(INDEX, 1), crtc.read(DATA, 1)) == (index & 0x3F, 0)


def test_registers_when_restored_are_the_same() -> None:
    crtc = Crtc()
    crtc.write(INDEX, 2, 0x5A0F)
    other = Crtc()
    other.load(crtc.save())

    assert other.read(INDEX, 2) == 0x5A0F
    crtc.reset()
    assert crtc.read(INDEX, 2) == 0
    with pytest.raises(TypeError, match="wrong type"):
        other.load({"index": 0, "registers": 1})
    with pytest.raises(ValueError, match="3 registers"):
        other.load({"index": 0, "registers": [1, 2, 3]})
