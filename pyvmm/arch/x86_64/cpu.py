"""The state a vCPU starts in.

Sources: Intel SDM volume 3, 3.4.5 (segments), 9.1 (state after reset), 11.11 (MTRRs), 11.5.1 (local
vector table); Linux Documentation/arch/x86/boot.rst, the 32-bit and 64-bit boot protocols.
"""

from __future__ import annotations

from pyvmm.boot.entry import LONG, REAL, BootEntry
from pyvmm.boot.x86 import lowmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.pykvm import Vcpu

CR0_PE = 1 << 0
CR0_MP = 1 << 1
CR0_ET = 1 << 4
CR0_NE = 1 << 5
CR0_WP = 1 << 16
CR0_AM = 1 << 18
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
RFLAGS_ALWAYS = 0x2

MSR_MISC_ENABLE = 0x1A0
MISC_ENABLE_FAST_STRING = 1
MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLED_WRITE_BACK = 1 << 11 | 6

APIC_LVT_LINT0 = 0x350
APIC_LVT_LINT1 = 0x360
APIC_MODE_NMI = 4 << 8
APIC_MODE_EXTINT = 7 << 8

_TYPE_CODE = 11
_TYPE_DATA = 3
_TYPE_TSS_BUSY = 11


def set_entry(vcpu: Vcpu, entry: BootEntry) -> None:
    """Set CPU 0's registers as *entry* says. For REAL mode at the reset vector they are so already."""
    if entry.mode == REAL and entry.ip is None and not entry.registers:
        return
    regs = vcpu.get_regs()
    for name, value in entry.registers.items():
        setattr(regs, name, value)
    regs.rflags = RFLAGS_ALWAYS
    if entry.ip is not None:
        regs.rip = entry.ip
    if entry.mode != REAL:
        sregs = vcpu.get_sregs()
        _flat(sregs, entry)
        vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


def set_boot_msrs(vcpu: Vcpu) -> None:
    """Set what firmware would set and kernels expect: fast strings, write-back caching by default."""
    vcpu.set_msrs({MSR_MISC_ENABLE: MISC_ENABLE_FAST_STRING, MSR_MTRR_DEF_TYPE: MTRR_ENABLED_WRITE_BACK})


def set_local_interrupts(vcpu: Vcpu) -> None:
    """Set LINT0 to ExtINT (the PIC) and LINT1 to NMI, as the MP table and the MADT say."""
    lapic = vcpu.get_lapic()
    for offset, mode in ((APIC_LVT_LINT0, APIC_MODE_EXTINT), (APIC_LVT_LINT1, APIC_MODE_NMI)):
        lapic.regs[offset : offset + 4] = mode.to_bytes(4, "little")
    vcpu.set_lapic(lapic)


def _flat(sregs: Any, entry: BootEntry) -> None:
    """Flat segments over the whole address space, as the descriptor table in memory has them."""
    long_mode = entry.mode == LONG
    code, tss, selector = sregs.cs, sregs.tr, entry.code_selector
    _segment(code, selector, _TYPE_CODE)
    code.l, code.db = (1, 0) if long_mode else (0, 1)
    for name in ("ds", "es", "fs", "gs", "ss"):
        segment = getattr(sregs, name)
        _segment(segment, selector + 8, _TYPE_DATA)
        segment.db = 1
    _segment(tss, selector + 16, _TYPE_TSS_BUSY)
    tss.s, tss.g, tss.limit = 0, 0, lowmem.TSS_LIMIT
    sregs.gdt.base, sregs.gdt.limit = entry.gdt, lowmem.GDT_LIMIT
    sregs.idt.base, sregs.idt.limit = 0, 0
    if long_mode:
        sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG
        sregs.cr3 = entry.page_tables
        sregs.cr4 = CR4_PAE
        sregs.efer = EFER_LME | EFER_LMA
    else:
        sregs.cr0 = CR0_PE | CR0_ET
        sregs.cr4 = 0
        sregs.efer = 0


def _segment(segment: Any, selector: int, kind: int) -> None:
    segment.base, segment.limit, segment.selector, segment.type = 0, 0xFFFF_FFFF, selector, kind
    segment.present, segment.dpl, segment.s, segment.g = 1, 0, 1, 1
    segment.l, segment.db, segment.unusable, segment.avl = 0, 0, 0, 0
