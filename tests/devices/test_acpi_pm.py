"""Sleep and reset registers as ACPI 6.5, 4.8.3.6 and 4.8.3.7, and Linux use them."""

from __future__ import annotations

import pytest

from pyvmm.devices.acpi_pm import RESET, SLEEP_CONTROL, SLEEP_STATUS, AcpiPm

SLP_EN = 1 << 5
S5 = 5 << 2
WAK_STS = 1 << 7


class Board:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.pm = AcpiPm(lambda: self.calls.append("poweroff"), lambda: self.calls.append("reset"))


def test_sleep_control_when_s5_is_enabled_powers_off() -> None:
    board = Board()

    board.pm.write(SLEEP_CONTROL, 1, S5 | SLP_EN)

    assert board.calls == ["poweroff"]


def test_sleep_control_when_written_without_slp_en_only_keeps_the_type() -> None:
    board = Board()

    board.pm.write(SLEEP_CONTROL, 1, S5)

    assert board.calls == []
    assert board.pm.read(SLEEP_CONTROL, 1) == S5


def test_sleep_control_when_read_never_shows_slp_en() -> None:
    board = Board()

    board.pm.write(SLEEP_CONTROL, 1, 0xFF)

    assert board.pm.read(SLEEP_CONTROL, 1) == 7 << 2


@pytest.mark.parametrize("kind", [kind for kind in range(8) if kind != 5])
def test_sleep_control_when_another_state_is_enabled_wakes_at_once(kind: int) -> None:
    board = Board()

    board.pm.write(SLEEP_CONTROL, 1, kind << 2 | SLP_EN)

    assert board.calls == []
    assert board.pm.read(SLEEP_STATUS, 1) == WAK_STS


def test_sleep_status_when_one_is_written_clears_wake_status() -> None:
    board = Board()
    board.pm.write(SLEEP_CONTROL, 1, 3 << 2 | SLP_EN)

    board.pm.write(SLEEP_STATUS, 1, 0x7F)
    assert board.pm.read(SLEEP_STATUS, 1) == WAK_STS

    board.pm.write(SLEEP_STATUS, 1, WAK_STS)
    assert board.pm.read(SLEEP_STATUS, 1) == 0


@pytest.mark.parametrize(("value", "calls"), [(1, ["reset"]), (0, []), (0xFF, [])])
def test_reset_register_when_written_resets_for_its_value_only(value: int, calls: list[str]) -> None:
    board = Board()

    board.pm.write(RESET, 1, value)

    assert board.calls == calls


def test_registers_when_accessed_together_act_lowest_first() -> None:
    board = Board()
    board.pm.write(SLEEP_CONTROL, 1, 3 << 2 | SLP_EN)

    assert board.pm.read(0, 4) == WAK_STS << 8 | 3 << 2
    board.pm.write(0, 4, 1 << 16 | WAK_STS << 8 | S5 | SLP_EN)

    assert board.calls == ["poweroff", "reset"]
    assert board.pm.read(0, 2) == S5


def test_reserved_byte_when_accessed_is_zero_and_ignored() -> None:
    board = Board()

    board.pm.write(3, 1, 1)

    assert (board.pm.read(3, 1), board.calls) == (0, [])


def test_load_when_given_what_save_gave_restores_both_registers() -> None:
    board, other = Board(), Board()
    board.pm.write(SLEEP_CONTROL, 1, 3 << 2 | SLP_EN)

    other.pm.load(board.pm.save())

    assert other.pm.read(0, 2) == board.pm.read(0, 2) == WAK_STS << 8 | 3 << 2


def test_load_when_a_field_has_the_wrong_type_raises_type_error() -> None:
    with pytest.raises(TypeError, match="ACPI power registers"):
        Board().pm.load({"version": 1, "control": "x", "status": 0})


def test_reset_when_called_clears_the_registers() -> None:
    board = Board()
    board.pm.write(SLEEP_CONTROL, 1, 3 << 2 | SLP_EN)

    board.pm.reset()

    assert board.pm.read(0, 4) == 0
