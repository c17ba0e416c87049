"""Where an arm64 vCPU is, and whether it can ever run again by itself.

Linux's ``machine_halt`` switches off every other CPU (PSCI CPU_OFF) and then branches to itself with
interrupts masked. A WFI with interrupts masked is no sign: that is how Linux is idle.

Source: Arm ARM, D8 "The AArch64 Virtual Memory System Architecture", C6.2.26 "B", "WFI".
"""

from __future__ import annotations

from pyvmm.arch.arm64.registers import REGISTERS
from pyvmm.arch.page_tables import PageTables, stretches
from pyvmm.pykvm import KvmError
from pyvmm.pykvm.const import KVM_MP_STATE_STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

#: Whether a vCPU that uses its processor all the time may have stopped.
SPINS = True

_PSTATE_I = 1 << 7
_PSTATE_EL = 3 << 2
_SCTLR_M = 1
_BRANCH_TO_SELF = (0x14000000).to_bytes(4, "little")
_WFI = (0xD503207F).to_bytes(4, "little")
_ADDRESS = (1 << 48) - 1
# Of an entry of a page table: a table rather than a block, a page that cannot be written.
_TABLE = 1 << 1
_READ_ONLY = 1 << 7
# Where the image of a kernel is, as seen from its vectors, which are code.
_BEFORE, _AFTER = 32 << 20, 96 << 20
#: log2 of the translation granule by TCR_EL1.TG0 and TG1.
_GRANULE0 = {0: 12, 1: 16, 2: 14}
_GRANULE1 = {1: 14, 2: 12, 3: 16}


def stopped(vcpu: Vcpu, memory: GuestMemory) -> bool:
    """Whether *vcpu* is off, or branches to itself with interrupts masked.

    In the vCPU's thread. Raises KvmError.
    """
    if vcpu.get_mp_state() == KVM_MP_STATE_STOPPED:
        return True
    if not vcpu.get_one_reg(REGISTERS["PSTATE"]) & _PSTATE_I:
        return False
    physical = translate(vcpu, memory, vcpu.get_one_reg(REGISTERS["PC"]))
    return memory.contains(physical, 4) and memory.read(physical, 4) == _BRANCH_TO_SELF


def kernel_place(vcpu: Vcpu, memory: GuestMemory) -> int | None:
    """The address of the instruction that *vcpu* is at, outside user mode; None when it is there or in WFI.

    In the vCPU's thread. Raises KvmError.
    """
    if not vcpu.get_one_reg(REGISTERS["PSTATE"]) & _PSTATE_EL or vcpu.get_mp_state() == KVM_MP_STATE_STOPPED:
        return None
    address = vcpu.get_one_reg(REGISTERS["PC"])
    physical = translate(vcpu, memory, address - 4)  # KVM has advanced the PC
    waits = memory.contains(physical, 4) and memory.read(physical, 4) == _WFI
    return None if waits else address


def code_address(vcpu: Vcpu, memory: GuestMemory) -> int | None:
    """The guest-physical address of the instruction that *vcpu* is at; None where KVM does not tell.

    In the vCPU's thread.
    """
    try:
        physical = translate(vcpu, memory, vcpu.get_one_reg(REGISTERS["PC"]))
    except KvmError:
        return None
    return physical if physical >= 0 else None


def translate(vcpu: Vcpu, memory: GuestMemory, address: int) -> int:
    """The physical address of virtual *address* by the guest's stage 1 tables, of 48 bits; -1 for none."""
    if not vcpu.get_one_reg(REGISTERS["SCTLR_EL1"]) & _SCTLR_M:
        return address
    geometry = _geometry(vcpu, address >> 55 & 1)
    if geometry is None:
        return -1
    granule, bits, table = geometry
    stride, level_shift = granule - 3, _first_shift(granule, bits)
    offset = address & (1 << bits) - 1
    while True:
        entry_address = table + 8 * (offset >> level_shift)
        if not memory.contains(entry_address, 8):
            return -1
        entry = int.from_bytes(memory.read(entry_address, 8), "little")
        is_page = level_shift == granule
        if not entry & 1 or (is_page and not entry & 2):
            return -1
        offset &= (1 << level_shift) - 1
        if is_page or not entry & 2:
            return entry & _ADDRESS & ~((1 << level_shift) - 1) | offset
        table = entry & _ADDRESS & ~((1 << granule) - 1)
        level_shift -= stride


def kernel_data(vcpu: Vcpu, memory: GuestMemory) -> list[tuple[int, int]]:
    """Guest-physical stretches, ``(first, end)``, of what the kernel's image can write; none without one.

    That is what is mapped around its vectors, at the same distance from the physical address.
    In the vCPU's thread.
    """
    try:
        vectors = vcpu.get_one_reg(REGISTERS["VBAR_EL1"])
        physical = translate(vcpu, memory, vectors)
        geometry = _geometry(vcpu, 1)
    except KvmError:
        return []
    if physical < 0 or geometry is None or not vectors >> 55 & 1:
        return []
    granule, bits, root = geometry
    address = _ADDRESS & -(1 << granule)
    tables = PageTables(memory, root, _first_shift(granule, bits), granule, lambda e: not e & _TABLE, address)
    at = vectors & (1 << bits) - 1
    begin, end = max(0, at - _BEFORE), min(1 << bits, at + _AFTER)
    return stretches(
        (gpa, size)
        for virtual, gpa, size, entry in tables.leaves(begin, end)
        if not entry & _READ_ONLY and gpa - virtual == physical - at
    )


def _geometry(vcpu: Vcpu, upper: int) -> tuple[int, int, int] | None:
    """Of the tables for the *upper* (1) or lower half: log2 of the granule, bits of an address, the root."""
    control = vcpu.get_one_reg(REGISTERS["TCR_EL1"])
    root = vcpu.get_one_reg(REGISTERS["TTBR1_EL1" if upper else "TTBR0_EL1"]) & _ADDRESS & ~1
    granule = _GRANULE1.get(control >> 30 & 3) if upper else _GRANULE0.get(control >> 14 & 3)
    bits = 64 - (control >> (16 if upper else 0) & 0x3F)
    return None if granule is None or not granule < bits <= 48 else (granule, bits, root)


def _first_shift(granule: int, bits: int) -> int:
    """Log2 of what an entry of the first table maps."""
    stride = granule - 3
    return granule + (bits - granule - 1) // stride * stride
