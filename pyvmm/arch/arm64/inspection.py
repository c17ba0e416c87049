"""Describes a vCPU that cannot go on: address and instruction."""

from __future__ import annotations

from pyvmm.arch.arm64.registers import REGISTERS
from pyvmm.pykvm import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

SCTLR_M = 1
_WIDTH = 4


def where(vcpu: Vcpu, name: Callable[[int], str] = lambda address: "") -> str:
    """`` at 0x40080000 in start+0x10 (EL1)``; empty when KVM does not tell the registers.

    *name* gives the symbol that an address lies in, empty for none.
    """
    try:
        pc = vcpu.get_one_reg(REGISTERS["PC"])
        state = vcpu.get_one_reg(REGISTERS["PSTATE"])
    except KvmError:
        return ""
    symbol = name(pc)
    place = f"{pc:#x} in {symbol}" if symbol else f"{pc:#x}"
    return f" at {place} (EL{state >> 2 & 3})"


#: KVM leaves an arm64 vCPU's state as it was, whatever ended it.
where_shut_down = where


def instruction(vcpu: Vcpu, memory: GuestMemory) -> tuple[str, str]:
    """For a sentence: the instruction at PC, or its bytes; and its mnemonic.

    Only while the MMU is off: KVM has no call that translates an arm64 guest's addresses.
    """
    pc = vcpu.get_one_reg(REGISTERS["PC"])
    if vcpu.get_one_reg(REGISTERS["SCTLR_EL1"]) & SCTLR_M or not memory.contains(pc, _WIDTH):
        return "an instruction", ""
    code = memory.read(pc, _WIDTH)
    try:
        import capstone
    except ImportError:  # a process in the sandbox has no files
        return f"the bytes {code.hex(' ')}", ""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    for _, _, mnemonic, operands in decoder.disasm_lite(code, pc, 1):
        return f"`{' '.join(filter(None, (mnemonic, operands)))}`", mnemonic
    return f"the bytes {code.hex(' ')}", ""


def advice(mnemonic: str) -> str:
    """Nothing: no CPU feature can be masked against an instruction here."""
    return ""
