"""Where an arm64 vCPU is, and whether it can ever run again by itself.

Linux's ``machine_halt`` switches off every other CPU (PSCI CPU_OFF) and then branches to itself with
interrupts masked. A WFI with interrupts masked is no sign: that is how Linux is idle.

Source: Arm ARM, D8 "The AArch64 Virtual Memory System Architecture", C6.2.26 "B", "WFI".
"""

from __future__ import annotations

from pyvmm.arch.arm64.registers import REGISTERS
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
    control = vcpu.get_one_reg(REGISTERS["TCR_EL1"])
    upper = address >> 55 & 1
    base = vcpu.get_one_reg(REGISTERS["TTBR1_EL1" if upper else "TTBR0_EL1"])
    granule = _GRANULE1.get(control >> 30 & 3) if upper else _GRANULE0.get(control >> 14 & 3)
    bits = 64 - (control >> (16 if upper else 0) & 0x3F)
    if granule is None or not granule < bits <= 48:
        return -1
    stride = granule - 3
    level_shift = granule + (bits - granule - 1) // stride * stride
    table, offset = base & _ADDRESS & ~1, address & (1 << bits) - 1
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
