"""The 16550A's line and modem status, loopback, odd accesses, state; PC16550D data sheet's sections."""

from __future__ import annotations

import threading

import pytest

from pyvmm.devices.serial import (
    FCR,
    IER,
    IER_MSI,
    IER_RDI,
    IER_RLSI,
    IER_THRI,
    IIR,
    LCR,
    LSR,
    MCR,
    MSR,
    RBR,
    SCR,
    THR,
)
from tests.support.serial_port import FIFO, IDLE, LOOPBACK, MSI, NO_INT, RDI, RLSI, THRI, Port


@pytest.fixture
def port():
    return Port()


@pytest.fixture
def fifo(port):
    """FIFOs on, trigger level 8, as Linux sets it."""
    port[FCR] = 0x81
    return port


# 8.6: line status


def test_break_is_a_zero_byte_with_the_break_flag(port):
    port[IER] = IER_RLSI
    port.host.on_break()
    assert port[IIR] == RLSI
    assert port[LSR] == IDLE | 0x11
    assert port[LSR] == IDLE | 0x01
    assert (port[IIR], port[RBR], port.wire.level) == (NO_INT, 0, False)


def test_break_in_the_fifo_is_told_when_it_comes_to_the_top(fifo):
    fifo.host.type(b"a")
    fifo.host.on_break()
    assert fifo[LSR] == IDLE | 0x81  # bit 7: an error somewhere in the FIFO
    assert fifo[RBR] == ord("a")
    assert fifo[LSR] & 0x10
    assert fifo[RBR] == 0
    assert fifo[LSR] == IDLE


def test_fifo_error_bit_stays_while_an_error_is_behind_the_top(fifo):
    fifo.host.on_break()
    fifo.host.type(b"a")
    fifo.host.on_break()
    assert fifo[LSR] & 0x90 == 0x90
    assert fifo[LSR] & 0x90 == 0x80


def test_overrun_with_fifo_keeps_the_fifo_and_loses_the_newcomer(fifo):
    fifo[IER] = IER_RLSI
    fifo[MCR] = LOOPBACK
    for value in range(17):
        fifo[THR] = value
    assert fifo[IIR] == FIFO | RLSI
    assert fifo[LSR] == IDLE | 0x03
    assert [fifo[RBR] for _ in range(16)] == list(range(16))
    assert fifo.overruns == 1


def test_overrun_without_fifo_replaces_the_byte(port):
    port[MCR] = LOOPBACK
    port[THR], port[THR] = 1, 2
    assert port[LSR] == IDLE | 0x03
    assert port[RBR] == 2


# 8.7, 8.8: modem control and status


def test_carrier_is_there_while_a_backend_is_connected(port):
    assert port[MSR] == 0xB0
    assert Port(connected=False)[MSR] == 0


def test_connecting_sets_the_delta_bits_and_interrupts():
    port = Port(connected=False)
    port[IER] = IER_MSI
    port.connect(port.host)
    assert (port.wire.level, port[IIR]) == (True, MSI)
    assert port[MSR] == 0xBB
    assert (port[MSR], port.wire.level) == (0xB0, False)


@pytest.mark.parametrize(("mcr", "msr"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)])
def test_loopback_connects_modem_outputs_to_inputs(port, mcr, msr):
    port[MCR] = LOOPBACK | mcr
    assert port[MSR] & 0xF0 == msr


def test_loopback_test_of_linux_finds_a_uart(port):
    port[MCR] = LOOPBACK | 0x0A
    assert port[MSR] & 0xF0 == 0x90
    port[MCR] = 0
    assert port[MSR] & 0xF0 == 0xB0


def test_ring_counts_as_change_when_it_ends(port):
    port[MCR] = LOOPBACK
    port[MSR]
    port[MCR] = LOOPBACK | 0x04
    assert port[MSR] == 0x40
    port[MCR] = LOOPBACK
    assert port[MSR] == 0x04


def test_loopback_sends_to_the_receiver_and_not_to_the_host(port):
    port[IER] = IER_RDI
    port[MCR] = LOOPBACK
    port[THR] = 0x5A
    assert port[IIR] == RDI
    assert port[RBR] == 0x5A
    assert port.host.sent == b""


def test_loopback_holds_back_the_host_and_lets_it_go_on_afterwards(fifo):
    fifo[MCR] = LOOPBACK
    assert fifo.host.space() == 0
    fifo[MCR] = 0
    assert fifo.host.resumed == 1


def test_loopback_with_the_backend_full_has_an_empty_transmitter(port):
    port.host.become_full()
    port[THR] = 0x41
    port[MCR] = LOOPBACK
    assert port[LSR] == IDLE
    port[MCR] = 0
    assert port[LSR] == 0


def test_interrupt_does_not_need_out2(port):
    port[MCR] = 0  # as xv6 leaves it
    port[IER] = IER_RDI
    port.host.type(b"x")
    assert port.wire.level


# Table IV: priorities


def test_iir_tells_the_highest_priority_first(port):
    port[MCR] = LOOPBACK  # the carrier drops
    port[IER] = 0x0F
    port[THR], port[THR] = 1, 2
    assert port[IIR] == RLSI
    port[LSR]
    assert port[IIR] == RDI
    port[RBR]
    assert port[IIR] == THRI
    assert port[IIR] == MSI
    port[MSR]
    assert port[IIR] == NO_INT
    assert not port.wire.level


# Accesses


def test_wide_access_reaches_the_neighbouring_registers(port):
    port.write(LCR, 2, 0x0B03)
    assert (port[LCR], port[MCR]) == (0x03, 0x0B)
    assert port.read(LCR, 2) == 0x0B03


def test_access_past_the_registers_reads_all_ones(port):
    port.write(SCR, 4, 0x11223344)
    assert port.read(SCR, 4) == 0xFFFFFF44


def test_tap_sees_the_guests_output_and_nothing_of_loopback(port):
    seen = []
    port.tap(seen.append)
    port[THR] = 0x41
    port.write_many(THR, b"BC")
    port[MCR] = LOOPBACK
    port[THR] = 0x44
    assert seen == [b"A", b"BC"]


def test_two_taps_both_see_the_output(port):
    first, second = [], []
    port.tap(first.append)
    port.tap(second.append)
    port[THR] = 0x41
    assert first == second == [b"A"]


# Save and load


def test_saved_state_when_loaded_behaves_the_same(fifo):
    fifo[LCR] = 0x03
    fifo[IER] = 0x07
    fifo[MCR] = 0x0B
    fifo[SCR] = 0x77
    fifo.host.type(b"ab")
    fifo.host.on_break()
    copy = Port()
    copy.load(fifo.save())
    for register in (LCR, IER, MCR, SCR, IIR, LSR, RBR, LSR, RBR, LSR, RBR, LSR, IIR, MSR):
        assert copy[register] == fifo[register]
    assert copy.wire.level == fifo.wire.level


@pytest.mark.parametrize("field", ["registers", "pending", "received", "errors", "deltas"])
def test_load_when_a_field_is_of_the_wrong_type_raises(port, field):
    with pytest.raises(TypeError, match="serial port"):
        port.load({**port.save(), field: "text"})


def test_input_and_output_when_vcpu_and_loop_run_at_once_lose_nothing(fifo):
    fifo[IER] = IER_RDI | IER_THRI
    total = 4000
    received = bytearray()

    def loop_thread():
        sent = 0
        while sent < total:
            data = b"x" * min(fifo.host.space(), total - sent)
            fifo.host.receive(data)
            sent += len(data)

    thread = threading.Thread(target=loop_thread)
    thread.start()
    while len(received) < total:
        if fifo[LSR] & 1:
            received.append(fifo[RBR])
            fifo[THR] = 0x2E
    thread.join()
    assert received == b"x" * total
    assert fifo.host.sent == b"." * total
    assert fifo.overruns == 0
