"""Memory slots: dirty log, read-only memory, coalesced writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.pykvm import Kvm, KvmError, Vcpu
from pyvmm.pykvm.abi_memory import kvm_coalesced_mmio, kvm_coalesced_mmio_ring
from pyvmm.pykvm.const import (
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_EXIT_HLT,
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
)
from tests.support.real_mode import CODE, DATA, HLT, MEMORY, NOWHERE, PAGE, RealMode, load, out, put, store

pytestmark = pytest.mark.kvm
Guest = Callable[..., RealMode]


def dirty(machine: RealMode) -> set[int]:
    bitmap = int.from_bytes(machine.vm.get_dirty_log(0, MEMORY // PAGE), "little")
    return {page for page in range(MEMORY // PAGE) if bitmap >> page & 1}


def test_dirty_log_when_guest_writes_has_the_pages_once(guest: Guest) -> None:
    machine = guest(put(DATA, 1) + put(0x3001, 2) + HLT, flags=KVM_MEM_LOG_DIRTY_PAGES)

    assert machine.run() == KVM_EXIT_HLT

    assert dirty(machine) == {DATA // PAGE, 3}
    assert dirty(machine) == set()


def test_dirty_log_when_not_asked_for_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT)

    with pytest.raises(KvmError, match=r"KVM_GET_DIRTY_LOG failed with ENOENT .*KVM_MEM_LOG_DIRTY_PAGES"):
        dirty(machine)


def test_clear_dirty_log_when_manual_forgets_only_the_pages_named(kvm: Kvm, guest: Guest) -> None:
    machine = guest(put(DATA, 1) + put(0x3001, 2) + HLT)
    machine.vm.enable_cap("MANUAL_DIRTY_LOG_PROTECT2", KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
    machine.vm.set_user_memory_region(0, 0, MEMORY, machine.address, KVM_MEM_LOG_DIRTY_PAGES)
    assert machine.run() == KVM_EXIT_HLT
    assert dirty(machine) == dirty(machine) == {DATA // PAGE, 3}

    machine.vm.clear_dirty_log(0, 0, MEMORY // PAGE, bytes([1 << 3]))

    assert dirty(machine) == {DATA // PAGE}


def test_readonly_slot_when_written_exits_as_mmio_and_keeps_its_bytes(guest: Guest) -> None:
    machine = guest(load(DATA) + store(DATA + 1) + HLT, flags=KVM_MEM_READONLY)
    machine.memory[DATA : DATA + 2] = b"\x37\x00"

    assert machine.run() == KVM_EXIT_MMIO
    mmio = machine.vcpu.run.mmio
    assert (mmio.phys_addr, mmio.is_write, mmio.data[0]) == (DATA + 1, 1, 0x37)
    assert machine.run() == KVM_EXIT_HLT
    assert machine.memory[DATA + 1] == 0


def test_memory_region_when_it_overlaps_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT)

    with pytest.raises(KvmError, match=r"EEXIST .*overlaps another slot") as caught:
        machine.vm.set_user_memory_region(1, CODE, PAGE, machine.address)

    assert caught.value.ioctl == "KVM_SET_USER_MEMORY_REGION"
    assert caught.value.exit_code == 64


def test_memory_region_when_removed_makes_room(guest: Guest) -> None:
    machine = guest(HLT)

    machine.vm.set_user_memory_region(0, 0, 0, machine.address)
    machine.vm.set_user_memory_region(1, 0, MEMORY, machine.address)

    assert machine.run() == KVM_EXIT_HLT


def ring_of(kvm: Kvm, vcpu: Vcpu) -> tuple[kvm_coalesced_mmio_ring, list[tuple[int, int, int, bytes]]]:
    start = kvm.check_extension("COALESCED_MMIO") * PAGE
    ring = kvm_coalesced_mmio_ring.from_buffer_copy(vcpu.run8, start)
    array = kvm_coalesced_mmio * ring.last
    entries = array.from_buffer_copy(vcpu.run8, start + kvm_coalesced_mmio_ring.coalesced_mmio.offset)
    return ring, [(e.phys_addr, e.len, e.pio, bytes(e.data[: e.len])) for e in entries]


def test_coalesced_pio_when_guest_writes_waits_in_the_ring(kvm: Kvm, guest: Guest) -> None:
    machine = guest(out(0x3F8, 0x41) + out(0x3F8, 0x42) + out(0x3F9, 0x43) + HLT)
    machine.vm.register_coalesced_mmio(0x3F8, 1, pio=True)

    assert machine.run() == KVM_EXIT_IO
    assert machine.io()[1] == 0x3F9

    ring, entries = ring_of(kvm, machine.vcpu)
    assert (ring.first, ring.last) == (0, 2)
    assert entries == [(0x3F8, 1, 1, b"A"), (0x3F8, 1, 1, b"B")]


def test_coalesced_mmio_when_guest_writes_waits_in_the_ring(kvm: Kvm, guest: Guest) -> None:
    machine = guest(put(NOWHERE, 0x44) + HLT)
    machine.vm.register_coalesced_mmio(NOWHERE, PAGE)

    assert machine.run() == KVM_EXIT_HLT

    assert ring_of(kvm, machine.vcpu)[1] == [(NOWHERE, 1, 0, b"D")]


def test_coalesced_pio_when_unregistered_exits_again(guest: Guest) -> None:
    machine = guest(out(0x3F8, 0x41) + HLT)
    machine.vm.register_coalesced_mmio(0x3F8, 1, pio=True)

    machine.vm.unregister_coalesced_mmio(0x3F8, 1, pio=True)

    assert machine.run() == KVM_EXIT_IO
