"""Where an x86-64 vCPU is, and whether it can ever run again by itself."""

from __future__ import annotations

from pyvmm.arch.page_tables import PageTables, stretches
from pyvmm.pykvm import KvmError
from pyvmm.pykvm.const import KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

#: Whether a vCPU that uses its processor all the time may have stopped.
SPINS = False

_RFLAGS_IF = 1 << 9
_USER = 3
_CR4_LA57 = 1 << 12
# Of an entry of a page table: the address, a page of 2 MiB or 1 GiB, whether it can be written.
_ADDRESS = (1 << 52) - 1
_PAGE_SIZE_BIT = 1 << 7
_WRITABLE = 1 << 1
# Where Linux maps its image (Documentation/arch/x86/x86_64/mm.rst), from the end of the address space.
_IMAGE, _IMAGE_END = -(2 << 30), -(1 << 30)


def stopped(vcpu: Vcpu, memory: GuestMemory) -> bool:
    """Whether *vcpu* waits for what only another vCPU can send: HLT with interrupts masked, or not started.

    In the vCPU's thread. Raises KvmError.
    """
    state = vcpu.get_mp_state()
    if state in (KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED):
        return True
    if state != KVM_MP_STATE_HALTED or vcpu.get_regs().rflags & _RFLAGS_IF:
        return False
    events = vcpu.get_vcpu_events()
    return not (events.nmi.pending or events.nmi.injected or events.smi.pending)


def kernel_place(vcpu: Vcpu, memory: GuestMemory) -> int | None:
    """The address of the instruction that *vcpu* is at, outside user mode; None when it is there or halted.

    In the vCPU's thread. Raises KvmError.
    """
    code = vcpu.get_sregs().cs
    if code.dpl == _USER or vcpu.get_mp_state() == KVM_MP_STATE_HALTED:
        return None
    return int(code.base + vcpu.get_regs().rip)


def code_address(vcpu: Vcpu, memory: GuestMemory) -> int | None:
    """The guest-physical address of the instruction that *vcpu* is at; None where KVM does not tell.

    In the vCPU's thread.
    """
    try:
        translation = vcpu.translate(vcpu.get_sregs().cs.base + vcpu.get_regs().rip)
    except KvmError:
        return None
    return translation.physical_address if translation.valid else None


def kernel_data(vcpu: Vcpu, memory: GuestMemory) -> list[tuple[int, int]]:
    """Guest-physical stretches, ``(first, end)``, of what Linux can write of its image; none without one.

    For a reset by the BIOS Linux has left long mode and cleared CR3; then the tables are those of the copy
    that it keeps below 1 MiB for other CPUs to begin with (arch/x86/realmode/init.c, trampoline_pgd).
    In the vCPU's thread.
    """
    try:
        registers = vcpu.get_sregs()
    except KvmError:
        return []
    levels = 5 if registers.cr4 & _CR4_LA57 else 4
    for root in (registers.cr3 & _ADDRESS & -0x1000, *range(0x1000, 1 << 20, 0x1000)):
        data = _image_data(memory, root, levels)
        if data:
            return data
    return []


def _image_data(memory: GuestMemory, root: int, levels: int) -> list[tuple[int, int]]:
    """The same by the tables that begin at *root*."""
    shift = 12 + 9 * (levels - 1)
    last = root + 0xFF8  # the entry that has the image
    if not memory.contains(last, 8) or not memory.read_u64(last) & 1:
        return []
    tables = PageTables(memory, root, shift, 12, lambda entry: bool(entry & _PAGE_SIZE_BIT), _ADDRESS)
    bits = (1 << shift + 9) - 1
    return stretches(
        (gpa, size)
        for _, gpa, size, entry in tables.leaves(_IMAGE & bits, _IMAGE_END & bits)
        if entry & _WRITABLE and size < 1 << 30
    )
