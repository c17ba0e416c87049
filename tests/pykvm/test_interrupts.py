"""Interrupts into a real-mode guest, and eventfds both ways."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pyvmm.pykvm import KvmError, routing
from pyvmm.pykvm.const import KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO
from pyvmm.pykvm.const_x86 import KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER
from tests.support.real_mode import HLT, NOWHERE, STI, RealMode, out, put, word

pytestmark = pytest.mark.kvm
Guest = Callable[..., RealMode]

IRQ = 5
VECTOR = 8 + IRQ
HANDLER = 0x1800
READY = 0x10
SERVED = 0x11

# The master PIC from scratch: vectors from 8, all interrupts on, in service until told.
PIC = out(0x20, 0x11) + out(0x21, 0x08) + out(0x21, 0x04) + out(0x21, 0x01) + out(0x21, 0x00)
#: Says it is ready, then sleeps; the handler counts nothing and says it served.
WAITS = PIC + out(READY, 0) + STI + HLT + out(SERVED, 0) + HLT
SERVE = out(0x20, 0x20) + out(SERVED, 1) + b"\xcf"  # end of interrupt; tell; iret


def waiting(guest: Guest, handler: bytes = SERVE, code: bytes = WAITS) -> RealMode:
    """A guest that has set up its interrupt and said so."""
    machine = guest(code, irqchip=True)
    machine.memory[HANDLER : HANDLER + len(handler)] = handler
    machine.memory[VECTOR * 4 : VECTOR * 4 + 4] = word(HANDLER) + word(0)
    assert machine.run() == KVM_EXIT_IO
    assert machine.io()[1] == READY
    return machine


def served(machine: RealMode) -> bool:
    assert machine.run() == KVM_EXIT_IO
    return machine.io()[1] == SERVED


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def resample() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def test_irq_line_when_raised_runs_the_handler(guest: Guest) -> None:
    machine = waiting(guest)

    machine.vm.irq_line(IRQ, 1)
    machine.vm.irq_line(IRQ, 0)

    assert served(machine)


def test_irq_pulse_when_called_runs_the_handler(guest: Guest) -> None:
    machine = waiting(guest)
    pulse = machine.vm.irq_pulse(IRQ)

    pulse()
    assert served(machine)


def test_irq_pulse_when_vm_has_no_irqchip_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT)

    with pytest.raises(KvmError, match=r"KVM_IRQ_LINE failed with ENXIO .*create_irqchip"):
        machine.vm.irq_pulse(IRQ)()


def test_irq_line_when_vm_has_no_irqchip_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT)

    with pytest.raises(KvmError, match=r"KVM_IRQ_LINE failed with ENXIO .*create_irqchip"):
        machine.vm.irq_line(IRQ, 1)


def test_irqfd_when_signalled_runs_the_handler(guest: Guest, eventfd: int) -> None:
    machine = waiting(guest)
    machine.vm.irqfd(eventfd, IRQ)

    os.eventfd_write(eventfd, 1)

    assert served(machine)


def test_irqfd_when_deassigned_leaves_the_signal_to_its_reader(guest: Guest, eventfd: int) -> None:
    machine = waiting(guest)
    machine.vm.irqfd(eventfd, IRQ)

    machine.vm.irqfd(eventfd, IRQ, deassign=True)
    os.eventfd_write(eventfd, 1)

    assert os.eventfd_read(eventfd) == 1


def test_irqfd_when_assigned_twice_is_refused_with_advice(guest: Guest, eventfd: int) -> None:
    machine = guest(HLT, irqchip=True)
    machine.vm.irqfd(eventfd, IRQ)

    with pytest.raises(KvmError, match=r"KVM_IRQFD failed with EBUSY .*deassign"):
        machine.vm.irqfd(eventfd, IRQ)


def test_irqfd_when_resampled_signals_the_end_of_interrupt(guest: Guest, eventfd: int, resample: int) -> None:
    level = out(0x4D0, 1 << IRQ)  # the pin is level-triggered
    machine = waiting(guest, code=level + WAITS)
    machine.vm.irqfd(eventfd, IRQ, resample=resample)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(resample)

    os.eventfd_write(eventfd, 1)

    assert served(machine)
    assert os.eventfd_read(resample) == 1


def test_gsi_routing_when_replaced_leads_another_number_to_the_pin(guest: Guest, eventfd: int) -> None:
    machine = waiting(guest)

    machine.vm.set_gsi_routing([routing.irqchip(40, KVM_IRQCHIP_PIC_MASTER, IRQ)])
    machine.vm.irqfd(eventfd, 40)
    os.eventfd_write(eventfd, 1)

    assert served(machine)


def test_gsi_routing_when_a_pin_does_not_exist_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT, irqchip=True)

    with pytest.raises(KvmError, match=r"KVM_SET_GSI_ROUTING failed with EINVAL .*unknown type, chip or pin"):
        machine.vm.set_gsi_routing([routing.irqchip(0, KVM_IRQCHIP_IOAPIC, 99)])


@pytest.mark.parametrize("by_route", [False, True])
def test_msi_when_sent_runs_the_handler(guest: Guest, eventfd: int, by_route: bool) -> None:
    machine = waiting(guest)
    lapic = machine.vcpu.get_lapic()
    lapic.regs[0xF0:0xF4] = word(0x1FF, 4)  # the APIC is on
    machine.vcpu.set_lapic(lapic)
    vector = 0x40
    machine.memory[vector * 4 : vector * 4 + 4] = word(HANDLER) + word(0)

    if by_route:
        machine.vm.set_gsi_routing([routing.msi(40, 0xFEE0_0000, vector)])
        machine.vm.irqfd(eventfd, 40)
        os.eventfd_write(eventfd, 1)
    else:
        assert machine.vm.signal_msi(0xFEE0_0000, vector)

    assert served(machine)


def test_nmi_when_sent_runs_its_handler(guest: Guest) -> None:
    machine = waiting(guest)
    machine.memory[2 * 4 : 2 * 4 + 4] = word(HANDLER) + word(0)

    machine.vcpu.nmi()

    assert served(machine)


@pytest.mark.parametrize("length", [1, 0])
def test_ioeventfd_when_guest_writes_the_port_is_signalled_without_an_exit(
    guest: Guest, eventfd: int, length: int
) -> None:
    machine = guest(out(0x500, 7) + out(0x500, 8) + HLT)
    machine.vm.ioeventfd(eventfd, 0x500, length, pio=True)

    assert machine.run() == KVM_EXIT_HLT

    assert os.eventfd_read(eventfd) == 2


def test_ioeventfd_when_value_differs_from_datamatch_exits(guest: Guest, eventfd: int) -> None:
    machine = guest(out(0x500, 7) + out(0x500, 8) + HLT)
    machine.vm.ioeventfd(eventfd, 0x500, 1, datamatch=7, pio=True)

    assert machine.run() == KVM_EXIT_IO
    assert machine.io()[3] == b"\x08"
    assert os.eventfd_read(eventfd) == 1


def test_ioeventfd_when_guest_writes_memory_is_signalled(guest: Guest, eventfd: int) -> None:
    machine = guest(put(NOWHERE, 1) + HLT)
    machine.vm.ioeventfd(eventfd, NOWHERE, 0)

    assert machine.run() == KVM_EXIT_HLT

    assert os.eventfd_read(eventfd) == 1


def test_ioeventfd_when_deassigned_exits_again(guest: Guest, eventfd: int) -> None:
    machine = guest(put(NOWHERE, 1) + HLT)
    machine.vm.ioeventfd(eventfd, NOWHERE, 1)

    machine.vm.ioeventfd(eventfd, NOWHERE, 1, deassign=True)

    assert machine.run() == KVM_EXIT_MMIO


def test_ioeventfd_when_address_is_taken_is_refused_with_advice(guest: Guest, eventfd: int) -> None:
    machine = guest(HLT)
    machine.vm.ioeventfd(eventfd, NOWHERE, 1)

    with pytest.raises(KvmError, match=r"KVM_IOEVENTFD failed with EEXIST .*datamatch"):
        machine.vm.ioeventfd(eventfd, NOWHERE, 1)


def test_irqchip_when_state_is_set_gives_it_back(guest: Guest) -> None:
    machine = guest(HLT, irqchip=True)
    state = machine.vm.get_irqchip(KVM_IRQCHIP_IOAPIC)
    assert state.chip.ioapic.base_address == 0xFEC0_0000

    state.chip.ioapic.redirtbl[3].fields.vector = 0x33
    machine.vm.set_irqchip(state)

    assert machine.vm.get_irqchip(KVM_IRQCHIP_IOAPIC).chip.ioapic.redirtbl[3].fields.vector == 0x33


def test_pit_when_state_is_set_gives_it_back(guest: Guest) -> None:
    machine = guest(HLT, irqchip=True)
    machine.vm.create_pit2(speaker_dummy=True)
    state = machine.vm.get_pit2()

    state.channels[2].count = 1234
    machine.vm.set_pit2(state)

    assert machine.vm.get_pit2().channels[2].count == 1234


def test_pit_when_irqchip_is_missing_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT)

    with pytest.raises(KvmError, match=r"KVM_CREATE_PIT2 failed with ENOENT .*create_irqchip"):
        machine.vm.create_pit2()


def test_speaker_port_when_asked_for_is_answered_in_the_kernel(guest: Guest) -> None:
    machine = guest(out(0x61, 1) + out(0x80, 1) + HLT, irqchip=True)
    machine.vm.create_pit2(speaker_dummy=True)

    assert machine.run() == KVM_EXIT_IO
    assert machine.io()[1] == 0x80


def test_irq_pulse_when_the_vm_is_closed_is_refused_whoever_has_its_number_now(guest: Guest) -> None:
    machine = waiting(guest)
    number, pulse = machine.vm.fd, machine.vm.irq_pulse(IRQ)
    machine.vm.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other <= number
        with pytest.raises(KvmError, match="EBADF"):
            pulse()
    finally:
        os.close(other)
