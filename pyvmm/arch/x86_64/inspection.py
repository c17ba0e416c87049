"""Describes a vCPU that cannot go on: address, instruction, what to do about it."""

from __future__ import annotations

from pyvmm.arch.x86_64 import masking
from pyvmm.arch.x86_64.host import PVM, virtualization
from pyvmm.pykvm import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

CR0_PE = 1
EFER_LMA = 1 << 10
RFLAGS_VM = 1 << 17
MAX_INSTRUCTION = 15
#: The base of CS and IP after a reset (Intel SDM vol. 3, 10.1.4).
RESET_VECTOR = (0xFFFF0000, 0xFFF0)


def where(vcpu: Vcpu, name: Callable[[int], str] = lambda address: "") -> str:
    """`` at 0x7c00 in start+0x10 (real mode)``; empty when KVM does not tell the registers.

    *name* gives the symbol that an address lies in, empty for none.
    """
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except KvmError:
        return ""
    if not sregs.cr0 & CR0_PE:
        return f" at {_named(sregs.cs.base + regs.rip, name)} (real mode)"
    return f" at {_named(regs.rip, name)} (ring {sregs.ss.dpl}, {_width(vcpu)}-bit mode)"


def where_shut_down(vcpu: Vcpu, name: Callable[[int], str] = lambda address: "") -> str:
    """``where``, for a vCPU after KVM_EXIT_SHUTDOWN.

    AMD's processors leave no valid state behind, and KVM has reset the vCPU then
    (arch/x86/kvm/svm/svm.c, shutdown_interception).
    """
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except KvmError:
        return ""
    if not sregs.cr0 & CR0_PE and (sregs.cs.base, regs.rip) == RESET_VECTOR:
        return "; the processor does not tell where"
    return where(vcpu, name)


def instruction(vcpu: Vcpu, memory: GuestMemory) -> tuple[str, str]:
    """For a sentence: the instruction at RIP in Intel syntax, or its bytes; and its mnemonic."""
    code = _code(vcpu, memory)
    if not code:
        return "an instruction that is not in memory", ""
    mnemonic, operands = disassemble(code, _width(vcpu))
    if not mnemonic:
        return f"the bytes {code.hex(' ')}", ""
    return f"`{' '.join(filter(None, (mnemonic, operands)))}`", mnemonic.split()[-1]


def disassemble(code: bytes, width: int) -> tuple[str, str]:
    """Mnemonic with prefixes, and operands, of the first instruction; *width* is 16, 32 or 64.

    Both are empty for bytes that are no instruction, and where the disassembler cannot be loaded: a process
    in the sandbox has no files.
    """
    try:
        import capstone
    except ImportError:
        return "", ""

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[width]
    for _, _, mnemonic, operands in capstone.Cs(capstone.CS_ARCH_X86, mode).disasm_lite(code, 0, 1):
        return mnemonic, operands
    return "", ""


def _named(address: int, name: Callable[[int], str]) -> str:
    symbol = name(address)
    return f"{address:#x} in {symbol}" if symbol else f"{address:#x}"


def _width(vcpu: Vcpu) -> int:
    sregs = vcpu.get_sregs()
    if sregs.efer & EFER_LMA and sregs.cs.l:
        return 64
    return 32 if sregs.cs.db else 16


def _code(vcpu: Vcpu, memory: GuestMemory) -> bytes:
    """Up to 15 bytes at the instruction pointer, through the guest's own page tables."""
    linear = vcpu.get_sregs().cs.base + vcpu.get_regs().rip
    code = b""
    while len(code) < MAX_INSTRUCTION:
        address = linear + len(code)
        translation = vcpu.translate(address)
        rest = min(MAX_INSTRUCTION - len(code), 0x1000 - address % 0x1000)
        if not translation.valid or not memory.contains(translation.physical_address, rest):
            break
        code += memory.read(translation.physical_address, rest)
    return code


def advice(mnemonic: str) -> str:
    """How to keep a guest from using the instruction, as the end of a sentence; empty for no advice."""
    if virtualization() != PVM:
        return ""
    ways = [masking.advice(mnemonic), "run it in the lab (pyvmm lab x86_64 -- pyvmm run ...)"]
    return f"; this host's KVM (PVM) emulates ring 0 without it: {', or '.join(filter(None, ways))}"
