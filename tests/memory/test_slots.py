"""Memslots against a VM that only keeps what it was told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.memory.errors import HostMemoryError, MemoryConfigError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import PAGE_SIZE, Anonymous
from pyvmm.memory.slots import KVM_MEM_MAX_NR_PAGES, Slots

LOG_DIRTY, READONLY = 1, 2  # KVM_MEM_* of <linux/kvm.h>


class FakeVm:
    """Keeps memslots as KVM does: by number, size 0 deletes."""

    def __init__(self, limit: int = 8, fail_at: int | None = None) -> None:
        self.limit = limit
        self.fail_at = fail_at
        self.slots: dict[int, tuple[int, int, int, int]] = {}
        self.bitmap = b""

    def check_extension(self, name: str) -> int:
        assert name == "NR_MEMSLOTS"
        return self.limit

    def set_user_memory_region(self, slot: int, gpa: int, size: int, address: int, flags: int) -> None:
        if slot == self.fail_at:
            raise OSError("no more")
        if size:
            self.slots[slot] = (gpa, size, address, flags)
        else:
            del self.slots[slot]

    def get_dirty_log(self, slot: int, pages: int) -> bytes:
        assert self.slots[slot][1] == pages * PAGE_SIZE
        return self.bitmap


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    host = Anonymous(8 * PAGE_SIZE)
    made = GuestMemory(
        [
            Region(0, 4 * PAGE_SIZE, host),
            Region(0x10000, PAGE_SIZE, host, 4 * PAGE_SIZE, readonly=True),
            Region(0x20000, PAGE_SIZE, host, 5 * PAGE_SIZE),
        ]
    )
    yield made
    made.close()


def test_install_gives_every_region_a_slot_with_its_address_and_flags(memory: GuestMemory) -> None:
    vm = FakeVm()

    Slots(vm, memory).install()  # type: ignore[arg-type]

    base = memory.regions[0].host.address
    assert vm.slots == {
        0: (0, 4 * PAGE_SIZE, base, 0),
        1: (0x10000, PAGE_SIZE, base + 4 * PAGE_SIZE, READONLY),
        2: (0x20000, PAGE_SIZE, base + 5 * PAGE_SIZE, 0),
    }


def test_install_when_one_slot_fails_removes_the_others(memory: GuestMemory) -> None:
    vm = FakeVm(fail_at=2)

    with pytest.raises(OSError, match="no more"):
        Slots(vm, memory).install()  # type: ignore[arg-type]

    assert vm.slots == {}


def test_install_when_there_are_too_few_slots_is_refused_before_any(memory: GuestMemory) -> None:
    vm = FakeVm(limit=2)

    with pytest.raises(
        HostMemoryError, match=r"has 3 regions and this host's KVM 2 memslots; use fewer parts"
    ):
        Slots(vm, memory).install()  # type: ignore[arg-type]

    assert vm.slots == {}


def test_install_when_a_region_is_beyond_kvms_limit_is_refused_before_any() -> None:
    size = (KVM_MEM_MAX_NR_PAGES + 1) * PAGE_SIZE
    host = Anonymous(size)
    memory = GuestMemory([Region(0, PAGE_SIZE, host), Region(PAGE_SIZE, size, host, name="huge")])
    vm = FakeVm()

    with pytest.raises(MemoryConfigError, match=r"'huge'.*divide it into several parts"):
        Slots(vm, memory).install()  # type: ignore[arg-type]

    assert vm.slots == {}
    memory.close()


def test_remove_when_installed_deletes_every_slot_and_may_be_repeated(memory: GuestMemory) -> None:
    vm = FakeVm()
    slots = Slots(vm, memory)  # type: ignore[arg-type]
    slots.install()

    slots.remove()
    slots.remove()

    assert vm.slots == {}


def test_slot_when_installed_is_the_regions_number(memory: GuestMemory) -> None:
    slots = Slots(FakeVm(), memory)  # type: ignore[arg-type]
    slots.install()

    assert [slots.slot(region) for region in memory.regions] == [0, 1, 2]


def test_log_dirty_when_switched_keeps_the_other_flags(memory: GuestMemory) -> None:
    vm = FakeVm()
    slots = Slots(vm, memory)  # type: ignore[arg-type]
    slots.install()

    slots.log_dirty(1, True)
    on = vm.slots[1][3]
    slots.log_dirty(1, False)

    assert (on, vm.slots[1][3]) == (READONLY | LOG_DIRTY, READONLY)


def test_dirty_log_gives_guest_addresses_of_the_set_bits(memory: GuestMemory) -> None:
    vm = FakeVm()
    slots = Slots(vm, memory)  # type: ignore[arg-type]
    slots.install()
    vm.bitmap = b"\x0b" + bytes(7)

    assert slots.dirty_log(0) == [0, PAGE_SIZE, 3 * PAGE_SIZE]
    vm.bitmap = b"\x01" + bytes(7)
    assert slots.dirty_log(2) == [0x20000]
