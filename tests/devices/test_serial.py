"""The 16550A's data path, register by register; section numbers are the PC16550D data sheet's."""

from __future__ import annotations

import pytest

from pyvmm.devices.serial import DLL, DLM, FCR, IER, IER_RDI, IER_THRI, IIR, LCR, LSR, MCR, MSR, RBR, SCR, THR
from tests.support.serial_port import FIFO, IDLE, NO_INT, RDI, THRI, TIMEOUT, Port


@pytest.fixture
def port():
    return Port()


@pytest.fixture
def fifo(port):
    """FIFOs on, trigger level 8, as Linux sets it."""
    port[FCR] = 0x81
    return port


# Table III: reset


def test_registers_after_power_on_are_those_of_the_data_sheet(port):
    assert [port[at] for at in (IER, IIR, LCR, MCR, LSR, SCR)] == [0, NO_INT, 0, 0, IDLE, 0]
    assert port.wire.changes == []


def test_reset_when_busy_goes_back_to_power_on_and_releases_the_line(fifo):
    fifo[IER] = 0x0F
    fifo[MCR] = 0x0B
    fifo.host.type(b"typed")
    assert fifo.wire.level
    fifo.reset()
    assert [fifo[at] for at in (IER, IIR, LCR, MCR, LSR)] == [0, NO_INT, 0, 0, IDLE]
    assert not fifo.wire.level


# 8.1, 8.2: line control and divisor


def test_divisor_latch_when_dlab_is_set_hides_data_and_interrupt_registers(port):
    port[IER] = 0x05
    port[LCR] = 0x83
    port[DLL], port[DLM] = 0x34, 0x12
    assert (port[DLL], port[DLM]) == (0x34, 0x12)
    port[LCR] = 0x03
    assert port[IER] == 0x05
    assert port.host.sent == b""


def test_divisor_after_power_on_is_not_zero(port):
    port[LCR] = 0x80
    assert port[DLL] | port[DLM]  # Linux's earlycon divides by it


def test_lcr_reads_back_every_bit(port):
    port[LCR] = 0x7F
    assert port[LCR] == 0x7F


def test_scratch_keeps_any_byte(port):
    port[SCR] = 0xA5
    assert port[SCR] == 0xA5


@pytest.mark.parametrize(("register", "mask"), [(IER, 0x0F), (MCR, 0x1F)])
def test_reserved_bits_read_as_zero(port, register, mask):
    port[register] = 0xFF
    assert port[register] == mask


@pytest.mark.parametrize("register", [LSR, MSR])
def test_status_registers_ignore_writes(port, register):
    before = port[register]
    port[register] = 0x00
    port[register] = 0xFF
    assert port[register] == before


# 8.4: FIFO control


def test_iir_top_bits_tell_whether_fifos_are_on(port):
    port[FCR] = 0x01
    assert port[IIR] == FIFO | NO_INT
    port[FCR] = 0x00
    assert port[IIR] == NO_INT


def test_fcr_when_bit_0_is_clear_ignores_the_other_bits(port):
    port[IER] = IER_RDI
    port[FCR] = 0xC0
    port.host.type(b"x")
    assert port[IIR] == RDI


@pytest.mark.parametrize(("bits", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_received_data_interrupt_comes_at_the_trigger_level(port, bits, level):
    port[FCR] = 0x01 | bits
    port[IER] = IER_RDI
    port.host.type(b"a" * (level - 1))
    assert port[IIR] != FIFO | RDI
    port.host.type(b"a")
    assert port[IIR] == FIFO | RDI
    port[RBR]
    assert port[IIR] != FIFO | RDI


def test_fifo_holds_sixteen_in_order(fifo):
    assert fifo.host.space() == 16
    fifo.host.type(bytes(range(20)))
    assert fifo.host.space() == 0
    assert [fifo[RBR] for _ in range(16)] == list(range(16))
    assert fifo[LSR] == IDLE


def test_clearing_the_receive_fifo_drops_what_is_in_it(fifo):
    fifo.host.type(b"zabc")
    assert fifo[RBR] == ord("z")  # else the guest has not had a chance to read any
    fifo[FCR] = 0x83
    assert fifo[LSR] == IDLE
    assert fifo.host.space() == 16


def test_switching_the_fifos_clears_them(fifo):
    fifo.host.type(b"zabc")
    assert fifo[RBR] == ord("z")
    fifo[FCR] = 0x00
    assert fifo[LSR] == IDLE
    assert fifo.host.space() == 1


# Receiver


def test_receiver_without_fifo_holds_one_byte(port):
    port[IER] = IER_RDI
    port.host.type(b"ab")
    assert port[LSR] == IDLE | 0x01
    assert (port[IIR], port.wire.level) == (RDI, True)
    assert port[RBR] == ord("a")
    assert (port[LSR], port[IIR], port.wire.level) == (IDLE, NO_INT, False)


def test_rbr_when_empty_repeats_the_last_byte(port):
    port.host.type(b"q")
    assert port[RBR] == port[RBR] == ord("q")


def test_rdi_when_not_enabled_leaves_the_line_alone(port):
    port.host.type(b"a")
    assert port[IIR] == NO_INT
    assert port.wire.changes == []


def test_rdi_when_enabled_with_data_waiting_interrupts(fifo):
    fifo.host.type(b"a")
    fifo[IER] = IER_RDI
    assert fifo[IIR] == FIFO | TIMEOUT
    assert fifo.wire.level


def test_timeout_when_below_the_trigger_level_is_told_and_cleared_by_reading(fifo):
    fifo[IER] = IER_RDI
    fifo.host.type(b"ab")
    assert fifo[IIR] == FIFO | TIMEOUT
    fifo[RBR]
    assert (fifo[IIR], fifo.wire.level) == (FIFO | NO_INT, False)


def test_timeout_when_a_byte_is_left_unread_comes_back_as_a_new_edge(fifo):
    fifo[IER] = IER_RDI
    fifo.host.type(b"ab")
    fifo[RBR]
    fifo.timers.expire()
    assert fifo[IIR] == FIFO | TIMEOUT
    assert fifo.wire.changes == [True, False, True]


def test_timeout_while_the_guest_goes_on_reading_waits(fifo):
    fifo[IER] = IER_RDI
    fifo.host.type(b"abcd")
    fifo[RBR]
    fifo[RBR]
    fifo.timers.expire()
    assert fifo[IIR] == FIFO | NO_INT
    fifo.timers.expire()
    assert fifo[IIR] == FIFO | TIMEOUT


def test_timeout_when_the_guest_has_read_all_never_comes(fifo):
    fifo[IER] = IER_RDI
    fifo.host.type(b"ab")
    fifo[RBR], fifo[RBR]
    fifo.timers.expire()
    assert fifo.timers.calls == []
    assert fifo[IIR] == FIFO | NO_INT


def test_draining_the_fifo_makes_one_timer(fifo):
    fifo[IER] = IER_RDI
    fifo.host.type(b"x" * 16)
    for _ in range(16):
        fifo[RBR]
    assert len(fifo.timers.calls) == 1


# Flow from the backend


def test_backend_that_found_no_space_is_resumed_when_half_the_fifo_is_free(fifo):
    fifo.host.type(b"x" * 16)
    assert fifo.host.space() == 0
    for _ in range(7):
        fifo[RBR]
    assert fifo.host.resumed == 0
    fifo[RBR]
    assert fifo.host.resumed == 1
    fifo[RBR]
    assert fifo.host.resumed == 1


def test_backend_that_found_no_space_is_resumed_when_the_fifo_is_cleared(fifo):
    fifo.host.type(b"x" * 16)
    fifo.host.space()
    fifo[FCR] = 0x83
    assert fifo.host.resumed == 1


def test_backend_that_was_never_refused_is_not_resumed(fifo):
    fifo.host.type(b"ab")
    fifo[RBR], fifo[RBR]
    assert fifo.host.resumed == 0


# Transmitter


def test_thr_goes_to_the_backend_at_once(port):
    port[THR] = ord("H")
    port[THR] = ord("i")
    assert port.host.sent == b"Hi"
    assert port[LSR] == IDLE


def test_thre_interrupt_comes_when_it_is_enabled(port):
    port[IER] = IER_THRI
    assert (port.wire.level, port[IIR]) == (True, THRI)


def test_thre_interrupt_is_cleared_by_reading_iir_that_tells_it(port):
    port[IER] = IER_THRI
    port[IIR]
    assert (port[IIR], port.wire.changes) == (NO_INT, [True, False])


def test_thre_interrupt_is_not_cleared_by_iir_that_tells_a_higher_one(port):
    port[IER] = IER_THRI | IER_RDI
    port.host.type(b"x")
    assert port[IIR] == RDI
    port[RBR]
    assert port[IIR] == THRI


def test_thre_interrupt_when_enabled_once_more_comes_again(port):
    port[IER] = IER_THRI
    port[IIR]
    port[IER] = 0
    port[IER] = IER_THRI
    assert port[IIR] == THRI  # else Linux sets UART_BUG_THRE


def test_thre_interrupt_when_already_enabled_does_not_come_again(port):
    port[IER] = IER_THRI
    port[IIR]
    port[IER] = IER_THRI
    assert port[IIR] == NO_INT


def test_thre_interrupt_after_each_byte_is_a_new_edge(port):
    port[IER] = IER_THRI
    port[THR] = 0x41
    assert port.wire.changes == [True, False, True]
    assert port[IIR] == THRI


def test_burst_when_thri_is_enabled_makes_one_edge(fifo):
    fifo[IER] = IER_THRI
    fifo.write_many(THR, b"0123456789abcdef")
    assert fifo.host.sent == b"0123456789abcdef"
    assert fifo.wire.changes == [True, False, True]


def test_burst_to_another_register_writes_each_byte(port):
    port.write_many(SCR, b"\x01\x02")
    port.write_many(THR, b"")
    assert port[SCR] == 2
    assert port.host.sent == b""


def test_full_backend_withholds_thre_until_there_is_room(port):
    port.host.become_full()
    port[THR] = 0x41
    assert port[LSR] == 0
    port.host.drain()
    assert port[LSR] == IDLE


def test_full_backend_withholds_the_thre_interrupt_until_there_is_room(port):
    port[IER] = IER_THRI
    port.host.become_full()
    port[THR] = 0x41
    assert (port[IIR], port.wire.level) == (NO_INT, False)
    port.host.drain()
    assert (port.wire.level, port[IIR]) == (True, THRI)


def test_thri_when_enabled_with_the_backend_full_waits_for_room(port):
    port.host.become_full()
    port[THR] = 0x41
    port[IER] = IER_THRI
    assert port[IIR] == NO_INT
    port.host.drain()
    assert port[IIR] == THRI


def test_port_without_backend_swallows_output():
    port = Port(connected=False)
    port[THR] = 0x41
    assert port[LSR] == IDLE
