"""Serial ports: the host's input waits until the guest listens, and nothing of it is lost meanwhile."""

from __future__ import annotations

import pytest

from pyvmm.devices import pl011
from pyvmm.devices.pl011 import Pl011
from pyvmm.devices.serial import FCR, IER, IIR, LCR, LSR, MCR, MSR, RBR, Serial16550A
from pyvmm.devices.uart import POLLS
from tests.support.serial_port import Host, Timers, Wire

TYPED = b"echo hello\n" * 20
IER_RDI, IER_THRI = 1, 2


class Sender(Host):
    """A host that types as soon as there is room, as a pipe does, and takes back what was not read."""

    def __init__(self, data: bytes = TYPED) -> None:
        super().__init__()
        self.left = data

    def attach(self, loop, receive, space):  # type: ignore[no-untyped-def]
        super().attach(loop, receive, space)
        self.resume()

    def resume(self) -> None:
        room = self.space()
        while self.left and room > 0:
            data, self.left = self.left[:room], self.left[room:]
            self.receive(data)
            room = self.space()

    def unread(self, data: bytes) -> None:
        self.left = data + self.left


class Com(Serial16550A):
    """A 16550A whose input is there before the guest."""

    def __init__(self) -> None:
        self.host, self.wire = Sender(), Wire()
        super().__init__(Timers(), self.wire, Timers())  # type: ignore[arg-type]
        self.connect(self.host)

    def __getitem__(self, offset: int) -> int:
        return self.read(offset, 1)

    def __setitem__(self, offset: int, value: int) -> None:
        self.write(offset, 1, value)

    def rest(self) -> bytes:
        """What the guest reads as long as there is something."""
        data = b""
        while self[LSR] & 1:
            data += bytes((self[RBR],))
        return data


class Pl(Pl011):
    """A PL011 whose input is there before the guest."""

    def __init__(self) -> None:
        self.host, self.wire, self.timers = Sender(), Wire(), Timers()
        super().__init__(self.timers, self.wire)  # type: ignore[arg-type]
        self.connect(self.host)

    def __getitem__(self, offset: int) -> int:
        return self.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.write(offset, 4, value)

    def rest(self) -> bytes:
        data = b""
        while not self[pl011.FR] & pl011.FR_RXFE:
            data += bytes((self[pl011.DR] & 0xFF,))
        return data


def print_line(port: Com) -> None:
    """As Linux's console driver prints: the interrupts off, the status before each byte and at the end."""
    enabled = port[IER]
    port[IER] = 0
    for value in b"[    0.000000] Linux\r\n":
        assert port[LSR] & 0x60 == 0x60
        port[0] = value
    assert port[LSR] & 0x60 == 0x60
    port[IER] = enabled


def probe(port: Com) -> None:
    """As Linux finds out what a port is (autoconfig): scratch, loopback, FIFOs."""
    port[IER] = 0
    port[MCR] = 0x1A
    assert port[MSR] & 0xF0 == 0x90
    port[MCR] = 0
    port[FCR] = 1
    assert port[IIR] & 0xC0 == 0xC0
    for value in (1, 7, 0):
        port[FCR] = value
    for offset in (LSR, RBR, IIR, MSR, RBR):
        port[offset]


def open_port(port: Com) -> None:
    """As Linux opens a port (serial8250_startup, serial8250_set_termios)."""
    for value in (1, 7, 0):
        port[FCR] = value
    for offset in (LSR, RBR, IIR, MSR):
        port[offset]
    port[LCR] = 3
    port[IER] = IER_THRI
    port[IER] = 0
    for offset in (LSR, RBR, IIR, MSR):
        port[offset]
    port[IER] = 5
    port[LCR] = 0x80
    port[0] = 1
    port[LCR] = 3
    port[FCR] = 1
    port[FCR] = 0x81


def test_com_port_opened_as_linux_does_loses_nothing() -> None:
    port = Com()
    for _ in range(100):
        print_line(port)
    probe(port)
    print_line(port)
    assert port.host.left == TYPED

    open_port(port)
    print_line(port)

    assert port.rest() == TYPED


def test_com_port_opened_again_before_anything_was_read_loses_nothing() -> None:
    port = Com()
    for _ in range(3):
        open_port(port)
        port[IER] = 0

    open_port(port)

    assert port.rest() == TYPED


def test_com_port_that_is_polled_gives_input() -> None:
    port = Com()

    for _ in range(POLLS - 1):
        assert not port[LSR] & 1

    assert port.rest() == TYPED


def test_pl011_whose_guest_enables_its_interrupt_alone_gives_input_a_while_after() -> None:
    port = Pl()
    port[pl011.IMSC] = pl011.INT_RX | pl011.INT_RT
    assert port.host.left == TYPED

    port.timers.expire()

    assert port.rest() == TYPED


@pytest.mark.parametrize("make", [Com, Pl])
def test_port_of_a_guest_whose_output_is_queued_gives_none(make: type[Com] | type[Pl]) -> None:
    """KVM queues what is printed: it is not known yet while the guest looks whether it may print more."""
    port = make()
    port.drain = lambda: port.write_many(0, b"x")

    for _ in range(10 * POLLS):
        port[LSR if make is Com else pl011.FR]

    assert port.host.left == TYPED


def test_com_port_whose_data_is_polled_gives_input() -> None:
    port = Com()

    for _ in range(POLLS - 1):
        port[RBR]

    assert bytes((port[RBR],)) + port.rest() == TYPED


def test_com_port_of_a_guest_that_only_prints_gives_none() -> None:
    port = Com()

    for _ in range(10 * POLLS):
        assert not port[LSR] & 1
        assert not port[LSR] & 1
        port[0] = ord("x")

    assert port.host.left == TYPED


def test_com_port_of_a_guest_that_ends_returns_what_was_not_read() -> None:
    port = Com()
    open_port(port)
    read = bytes((port[RBR], port[RBR]))

    port.close()
    port.close()

    assert read + port.host.left == TYPED
    assert port.host.space() == 0


@pytest.mark.parametrize("make", [Com, Pl])
def test_port_that_is_saved_before_the_guest_listens_still_waits(make: type[Com] | type[Pl]) -> None:
    port, other = make(), make()

    other.load(port.save())

    assert other.host.left == TYPED


def test_port_that_is_saved_with_returned_input_has_it_after_the_load() -> None:
    port = Com()
    port[IER] = IER_RDI
    assert len(port.host.left) == len(TYPED) - 1
    port[MCR] = 0x10  # so that what is cleared is not received again at once
    port[FCR] = 1
    other = Com()
    other.host.left = port.host.left

    other.load(port.save())
    other[MCR] = 0

    assert other.rest() == TYPED


def test_state_of_an_earlier_version_listens() -> None:
    state = Com().save()
    del state["listening"], state["returned"]
    port = Com()

    port.load(state)

    assert port.rest() == TYPED


def pl_print(port: Pl) -> None:
    for value in b"[    0.000000] Linux\r\n":
        assert not port[pl011.FR] & pl011.FR_TXFF
        port[pl011.DR] = value
    assert port[pl011.FR] & pl011.FR_TXFE


def test_pl011_opened_as_linux_does_loses_nothing() -> None:
    port = Pl()
    port[pl011.LCR_H] = 0x70
    for _ in range(100):
        pl_print(port)
    port[pl011.IMSC] = 0x50  # pl011_hwinit
    port[pl011.IFLS] = 0x12
    port[pl011.CR] = 0x301
    port[pl011.ICR] = 0x50
    for _ in range(64):  # pl011_enable_interrupts
        if port[pl011.FR] & pl011.FR_RXFE:
            break
        port[pl011.DR]
    assert port.host.left == TYPED
    port[pl011.IMSC] = 0x50

    assert port.rest() == TYPED


def test_pl011_enabled_last_gives_input_after_a_while() -> None:
    port = Pl()
    port[pl011.IMSC] = 0x10
    port[pl011.CR] = 0x301
    assert port.host.left == TYPED

    port.timers.expire()

    assert port.rest() == TYPED


def test_pl011_that_is_polled_gives_input() -> None:
    port = Pl()

    for _ in range(POLLS - 1):
        assert port[pl011.FR] & pl011.FR_RXFE
    port[pl011.FR]

    assert port.rest() == TYPED
