"""Memslots: guest memory as KVM knows it, one slot for each region.

Source: KVM_SET_USER_MEMORY_REGION and KVM_GET_DIRTY_LOG in Documentation/virt/kvm/api.rst;
KVM_MEM_MAX_NR_PAGES in include/linux/kvm_host.h.
"""

from __future__ import annotations

from pyvmm.memory.errors import HostMemoryError, MemoryConfigError
from pyvmm.memory.host import PAGE_SIZE
from pyvmm.pykvm.const import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory, Region
    from pyvmm.pykvm import Vm

#: KVM counts the pages of a slot in a signed 32-bit number.
KVM_MEM_MAX_NR_PAGES = (1 << 31) - 1


class Slots:
    """The memslots of *vm* for *memory*, numbered from 0 in the order of its regions.

    KVM knows host addresses, not mappings: ``remove`` the slots, or close the VM, before
    the memory is closed.
    """

    def __init__(self, vm: Vm, memory: GuestMemory) -> None:
        self._vm = vm
        self._memory = memory
        self._slots: list[Region] = []
        self._flags: list[int] = []

    def install(self) -> None:
        """Give every region a slot, all or none.

        Raises MemoryConfigError for a region beyond KVM's limits, HostMemoryError when
        there are more regions than slots, KvmError when KVM refuses one.
        """
        regions = self._memory.regions
        limit = self._vm.check_extension("NR_MEMSLOTS")
        if len(regions) > limit:
            raise HostMemoryError(
                f"guest memory has {len(regions)} regions and this host's KVM {limit} memslots; "
                "use fewer parts"
            )
        for region in regions:
            if region.size > KVM_MEM_MAX_NR_PAGES * PAGE_SIZE:
                raise MemoryConfigError(
                    f"memory region {region.name!r} has {region.size:#x} bytes, more than a memslot of KVM's "
                    f"can have ({KVM_MEM_MAX_NR_PAGES * PAGE_SIZE:#x}); divide it into several parts"
                )
        try:
            for region in regions:
                flags = KVM_MEM_READONLY if region.readonly else 0
                self._set(len(self._slots), region, flags)
                self._slots.append(region)
                self._flags.append(flags)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take every slot away from the VM; may be called again. No vCPU may be running in it."""
        while self._slots:
            region = self._slots[-1]
            # A size of zero deletes the slot.
            self._vm.set_user_memory_region(len(self._slots) - 1, region.gpa, 0, region.address, 0)
            self._slots.pop()
            self._flags.pop()

    def slot(self, region: Region) -> int:
        """The number of *region*'s slot. Raises ValueError when it has none."""
        return self._slots.index(region)

    def log_dirty(self, slot: int, on: bool) -> None:
        """Enable or disable the logging of pages that the guest writes in *slot*. Raises KvmError."""
        flags = self._flags[slot] & ~KVM_MEM_LOG_DIRTY_PAGES
        if on:
            flags |= KVM_MEM_LOG_DIRTY_PAGES
        self._set(slot, self._slots[slot], flags)
        self._flags[slot] = flags

    def dirty_log(self, slot: int) -> list[int]:
        """The guest-physical addresses of the pages written in *slot* since it was last asked.

        Writes by this process, through the accessor, are not in it. Raises KvmError
        when ``log_dirty`` is not on.
        """
        region = self._slots[slot]
        bitmap = self._vm.get_dirty_log(slot, region.size // PAGE_SIZE)
        pages = []
        for index, byte in enumerate(bitmap):
            while byte:
                bit = byte & -byte
                pages.append(region.gpa + (8 * index + bit.bit_length() - 1) * PAGE_SIZE)
                byte ^= bit
        return pages

    def _set(self, slot: int, region: Region, flags: int) -> None:
        self._vm.set_user_memory_region(slot, region.gpa, region.size, region.address, flags)
