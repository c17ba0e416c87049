"""The keyboard controller, driven the way Linux, boot loaders and firmware drive it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.i8042 import I8042

OBF, IBF, SYS, CMD, TIMEOUT = 0x01, 0x02, 0x04, 0x08, 0x40
AUXDIS = 0x20


class Guest:
    """A driver: waits for the controller with a bound, as a real one."""

    def __init__(self) -> None:
        self.resets = 0
        self.reads = 0
        self.controller = I8042(self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        self.reads += 1
        return self.controller.command.read(0, 1)

    def command(self, value: int, *data: int) -> None:
        assert not self.status() & IBF
        self.controller.command.write(0, 1, value)
        for byte in data:
            self.data(byte)

    def data(self, value: int) -> None:
        assert not self.status() & IBF
        self.controller.data.write(0, 1, value)

    def answer(self) -> int:
        assert self.status() & OBF, "no answer"
        return self.controller.data.read(0, 1)


def test_status_when_nothing_happened_has_no_data_and_no_busy() -> None:
    assert Guest().status() & (OBF | IBF | TIMEOUT) == 0


@pytest.mark.parametrize(
    ("command", "answer"),
    [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x01), (0xA4, 0xF1), (0xC0, 0x80), (0xE0, 0x00)],
)
def test_command_when_it_has_an_answer_gives_it_at_once(command: int, answer: int) -> None:
    guest = Guest()

    guest.command(command)

    assert guest.answer() == answer
    assert not guest.status() & OBF


def test_data_port_when_read_again_repeats_the_last_byte() -> None:
    guest = Guest()
    guest.command(0xAA)

    assert guest.answer() == 0x55
    assert guest.controller.data.read(0, 1) == 0x55


def test_control_register_when_written_reads_back_with_the_aux_port_disabled() -> None:
    guest = Guest()

    guest.command(0x60, 0x03)
    guest.command(0x20)

    assert guest.answer() == 0x03 | AUXDIS


def test_control_register_when_sys_is_cleared_shows_in_the_status() -> None:
    guest = Guest()

    guest.command(0x60, 0x00)
    assert not guest.status() & SYS

    guest.command(0xAA)
    assert guest.status() & SYS


@pytest.mark.parametrize(("command", "disabled"), [(0xAD, 0x10), (0xAE, 0x00)])
def test_keyboard_when_enabled_or_disabled_shows_in_the_control_register(command: int, disabled: int) -> None:
    guest = Guest()

    guest.command(command)
    guest.command(0x20)

    assert guest.answer() & 0x10 == disabled


@pytest.mark.parametrize("index", [1, 17, 31])
def test_controller_memory_when_written_reads_back(index: int) -> None:
    guest = Guest()

    guest.command(0x60 + index, 0xA5)
    guest.command(0x20 + index)

    assert guest.answer() == 0xA5


def test_status_when_read_tells_the_port_written_last() -> None:
    guest = Guest()

    guest.command(0xAE)
    assert guest.status() & CMD

    guest.data(0xF4)
    assert not guest.status() & CMD


def test_keyboard_byte_when_sent_is_answered_by_a_timeout() -> None:
    guest = Guest()

    guest.data(0xF2)

    assert guest.status() & (OBF | TIMEOUT) == OBF | TIMEOUT
    assert guest.answer() == 0xFE
    assert guest.status() & (OBF | TIMEOUT) == 0


def test_aux_byte_when_sent_is_answered_by_a_timeout() -> None:
    guest = Guest()

    guest.command(0xD4, 0xF2)

    assert guest.status() & TIMEOUT
    assert guest.answer() == 0xFE


def test_keyboard_buffer_when_written_comes_back() -> None:
    guest = Guest()

    guest.command(0xD2, 0x1C)

    assert guest.answer() == 0x1C


def test_command_when_an_answer_was_never_fetched_replaces_it() -> None:
    guest = Guest()
    guest.data(0xF2)

    guest.command(0xAA)

    assert not guest.status() & TIMEOUT
    assert guest.answer() == 0x55
    assert not guest.status() & OBF


def test_command_when_it_comes_instead_of_data_takes_the_place() -> None:
    guest = Guest()

    guest.command(0xD1)
    guest.command(0xAA)
    assert guest.answer() == 0x55
    guest.data(0x00)

    assert guest.resets == 0


@pytest.mark.parametrize(
    ("command", "resets"), [(0xFE, 1), (0xF0, 1), (0xFC, 1), (0xFF, 0), (0xFD, 0), (0xF1, 0)]
)
def test_pulse_when_bit_0_is_clear_resets(command: int, resets: int) -> None:
    guest = Guest()

    guest.command(command)

    assert guest.resets == resets


@pytest.mark.parametrize(("value", "resets"), [(0xDF, 0), (0xDE, 1), (0x01, 0), (0x00, 1)])
def test_output_port_when_bit_0_goes_low_resets(value: int, resets: int) -> None:
    guest = Guest()

    guest.command(0xD1, value)

    assert guest.resets == resets


@pytest.mark.parametrize(
    ("commands", "a20"), [([(0xD1, 0xDD)], 0), ([(0xDD,)], 0), ([(0xDD,), (0xDF,)], 2), ([], 2)]
)
def test_a20_when_switched_reads_back_in_the_output_port(commands: list[tuple[int, ...]], a20: int) -> None:
    guest = Guest()

    for command in commands:
        guest.command(*command)
    guest.command(0xD0)

    assert guest.answer() & 0x03 == a20 | 0x01


def test_output_port_when_data_waits_says_so() -> None:
    guest = Guest()

    guest.command(0xD2, 0x00)
    guest.command(0xD0)

    assert guest.answer() & 0x10


def test_linux_probe_when_run_finds_no_aux_port_in_few_reads() -> None:
    """The order of i8042_init: flush, self test, control register, AUX loop and test."""
    guest = Guest()

    while guest.status() & OBF:
        guest.controller.data.read(0, 1)
    guest.command(0xAA)
    assert guest.answer() == 0x55
    guest.command(0x20)
    control = guest.answer()
    guest.command(0x60, control | 0x10)
    guest.command(0xD3, 0x5A)
    assert guest.answer() != 0x5A, "a loop that works makes Linux wait for an interrupt"
    guest.command(0xA9)
    assert guest.answer() not in (0x00, 0xFA, 0xFF), "these make Linux believe in the port"

    assert guest.reads < 20


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 255)), max_size=40))
def test_ports_when_anything_is_written_stay_readable_and_never_busy(writes: list[tuple[bool, int]]) -> None:
    guest = Guest()

    for is_command, value in writes:
        (guest.command if is_command else guest.data)(value)

    assert 0 <= guest.controller.data.read(0, 1) <= 0xFF
    assert guest.status() & (OBF | IBF) == 0


def test_load_when_given_what_save_gave_continues_mid_command() -> None:
    guest, other = Guest(), Guest()
    guest.command(0x60 + 9, 0x77)
    guest.command(0xD1)

    other.controller.load(guest.controller.save())
    other.data(0xDD)

    other.command(0xD0)
    assert other.answer() & 0x03 == 0x01
    other.command(0x20 + 9)
    assert other.answer() == 0x77


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ram": None}, TypeError),
        ({"ram": [0] * 31}, ValueError),
        ({"ram": [256] * 32}, ValueError),
        ({"registers": [0, 0, 0]}, ValueError),
    ],
)
def test_load_when_malformed_raises_and_changes_nothing(
    change: dict[str, object], error: type[Exception]
) -> None:
    controller = I8042(lambda: None)
    before = controller.save()

    with pytest.raises(error):
        controller.load({**before, **change})

    assert controller.save() == before


def test_reset_when_called_forgets_what_the_guest_set() -> None:
    guest = Guest()
    fresh = guest.controller.save()
    guest.command(0x60, 0x00)
    guest.command(0xDD)

    guest.controller.reset()

    assert guest.controller.save() == fresh
