"""Names for the registers of KVM_GET_ONE_REG, and their identifiers.

Names are Arm's (Architecture Reference Manual, DDI 0487, chapter C5 and D19); a system register
without a name here has Arm's generic one, such as ``S3_0_C1_C0_1``. The identifiers' layout: Linux
arch/arm64/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from pyvmm.pykvm.abi_arm64 import kvm_regs, user_fpsimd_state, user_pt_regs
from pyvmm.pykvm.const import (
    KVM_REG_ARM64,
    KVM_REG_SIZE_MASK,
    KVM_REG_SIZE_U32,
    KVM_REG_SIZE_U64,
    KVM_REG_SIZE_U128,
)
from pyvmm.pykvm.const_arm64 import (
    KVM_REG_ARM64_SVE,
    KVM_REG_ARM64_SYSREG,
    KVM_REG_ARM_COPROC_MASK,
    KVM_REG_ARM_CORE,
    KVM_REG_ARM_DEMUX,
    KVM_REG_ARM_FW,
    KVM_REG_ARM_FW_FEAT_BMAP,
)

_SIZES = {4: KVM_REG_SIZE_U32, 8: KVM_REG_SIZE_U64, 16: KVM_REG_SIZE_U128}

#: System registers by op0, op1, CRn and CRm: the names for op2 from 0 on; a dot is one without a name here.
_SYSTEM = {
    (2, 0, 1, 0): ". . . . OSLAR_EL1",
    (2, 0, 1, 1): ". . . . OSLSR_EL1",
    (2, 0, 1, 3): ". . . . OSDLR_EL1",
    (2, 4, 0, 7): "DBGVCR32_EL2",
    (3, 0, 0, 0): "MIDR_EL1 . . . . MPIDR_EL1 REVIDR_EL1",
    (3, 0, 0, 1): "ID_PFR0_EL1 ID_PFR1_EL1 ID_DFR0_EL1 ID_AFR0_EL1 ID_MMFR0_EL1 ID_MMFR1_EL1 ID_MMFR2_EL1"
    " ID_MMFR3_EL1",
    (3, 0, 0, 2): "ID_ISAR0_EL1 ID_ISAR1_EL1 ID_ISAR2_EL1 ID_ISAR3_EL1 ID_ISAR4_EL1 ID_ISAR5_EL1"
    " ID_MMFR4_EL1 ID_ISAR6_EL1",
    (3, 0, 0, 3): "MVFR0_EL1 MVFR1_EL1 MVFR2_EL1 . ID_PFR2_EL1 ID_DFR1_EL1 ID_MMFR5_EL1",
    (3, 0, 0, 4): "ID_AA64PFR0_EL1 ID_AA64PFR1_EL1 ID_AA64PFR2_EL1 . ID_AA64ZFR0_EL1 ID_AA64SMFR0_EL1 ."
    " ID_AA64FPFR0_EL1",
    (3, 0, 0, 5): "ID_AA64DFR0_EL1 ID_AA64DFR1_EL1 ID_AA64DFR2_EL1 . ID_AA64AFR0_EL1 ID_AA64AFR1_EL1",
    (3, 0, 0, 6): "ID_AA64ISAR0_EL1 ID_AA64ISAR1_EL1 ID_AA64ISAR2_EL1 ID_AA64ISAR3_EL1",
    (3, 0, 0, 7): "ID_AA64MMFR0_EL1 ID_AA64MMFR1_EL1 ID_AA64MMFR2_EL1 ID_AA64MMFR3_EL1 ID_AA64MMFR4_EL1",
    (3, 0, 1, 0): "SCTLR_EL1 ACTLR_EL1 CPACR_EL1 SCTLR2_EL1 . RGSR_EL1 GCR_EL1",
    (3, 0, 1, 2): "ZCR_EL1 TRFCR_EL1 . . SMPRI_EL1 . SMCR_EL1",
    (3, 0, 2, 0): "TTBR0_EL1 TTBR1_EL1 TCR_EL1 TCR2_EL1",
    (3, 0, 2, 1): "APIAKEYLO_EL1 APIAKEYHI_EL1 APIBKEYLO_EL1 APIBKEYHI_EL1",
    (3, 0, 2, 2): "APDAKEYLO_EL1 APDAKEYHI_EL1 APDBKEYLO_EL1 APDBKEYHI_EL1",
    (3, 0, 2, 3): "APGAKEYLO_EL1 APGAKEYHI_EL1",
    (3, 0, 5, 1): "AFSR0_EL1 AFSR1_EL1",
    (3, 0, 5, 2): "ESR_EL1",
    (3, 0, 5, 6): "TFSR_EL1 TFSRE0_EL1",
    (3, 0, 6, 0): "FAR_EL1",
    (3, 0, 7, 4): "PAR_EL1",
    (3, 0, 9, 14): ". PMINTENSET_EL1 PMINTENCLR_EL1 . . . PMMIR_EL1",
    (3, 0, 10, 2): "MAIR_EL1 . PIRE0_EL1 PIR_EL1",
    (3, 0, 10, 3): "AMAIR_EL1",
    (3, 0, 12, 0): "VBAR_EL1",
    (3, 0, 12, 1): ". DISR_EL1",
    (3, 0, 13, 0): ". CONTEXTIDR_EL1 . . TPIDR_EL1 . . SCXTNUM_EL1",
    (3, 0, 14, 1): "CNTKCTL_EL1",
    (3, 1, 0, 0): "CCSIDR_EL1 CLIDR_EL1 CCSIDR2_EL1 . . . SMIDR_EL1 AIDR_EL1",
    (3, 2, 0, 0): "CSSELR_EL1",
    (3, 3, 0, 0): ". CTR_EL0 . . . . . DCZID_EL0",
    (3, 3, 9, 12): "PMCR_EL0 PMCNTENSET_EL0 PMCNTENCLR_EL0 PMOVSCLR_EL0 PMSWINC_EL0 PMSELR_EL0 PMCEID0_EL0"
    " PMCEID1_EL0",
    (3, 3, 9, 13): "PMCCNTR_EL0 PMXEVTYPER_EL0 PMXEVCNTR_EL0",
    (3, 3, 9, 14): "PMUSERENR_EL0 . . PMOVSSET_EL0",
    (3, 3, 13, 0): ". . TPIDR_EL0 TPIDRRO_EL0 . TPIDR2_EL0 . SCXTNUM_EL0",
    # KVM's identifiers of the virtual timer's counter and compare value are exchanged; asm/kvm.h keeps them
    # so.
    (3, 3, 14, 0): ". CNTPCT_EL0 CNTV_CVAL_EL0",
    (3, 3, 14, 2): ". CNTP_CTL_EL0 CNTP_CVAL_EL0",
    (3, 3, 14, 3): ". CNTV_CTL_EL0 CNTVCT_EL0",
    (3, 4, 3, 0): "DACR32_EL2",
    (3, 4, 5, 0): ". IFSR32_EL2",
    (3, 4, 5, 3): "FPEXC32_EL2",
    **{
        (2, 0, 0, n): f"{'MDCCINT_EL1' if n == 2 else '.'} . {'MDSCR_EL1' if n == 2 else '.'} . "
        f"DBGBVR{n}_EL1 DBGBCR{n}_EL1 DBGWVR{n}_EL1 DBGWCR{n}_EL1"
        for n in range(16)
    },
    **{
        (3, 3, 14, 8 + n): " ".join(f"PMEVCNTR{8 * n + i}_EL0" for i in range(8 if n < 3 else 7))
        for n in range(4)
    },
    **{
        (3, 3, 14, 12 + n): " ".join(f"PMEVTYPER{8 * n + i}_EL0" for i in range(8 if n < 3 else 7))
        + ("" if n < 3 else " PMCCFILTR_EL0")
        for n in range(4)
    },
}

_FIRMWARE = (
    "PSCI_VERSION",
    "SMCCC_ARCH_WORKAROUND_1",
    "SMCCC_ARCH_WORKAROUND_2",
    "SMCCC_ARCH_WORKAROUND_3",
)
_BITMAPS = ("SMCCC_STD_BMAP", "SMCCC_STD_HYP_BMAP", "SMCCC_VENDOR_HYP_BMAP")


def core(offset: int, size: int) -> int:
    """The identifier of *size* bytes at *offset* of ``struct kvm_regs``."""
    return KVM_REG_ARM64 | _SIZES[size] | KVM_REG_ARM_CORE | offset // 4


def system(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The identifier of a system register by the fields of its MRS instruction.

    *op0*: 2 bits; *op1*, *op2*: 3; *crn*, *crm*: 4. ARM64_SYS_REG of <asm/kvm.h>.
    """
    return (
        KVM_REG_ARM64
        | KVM_REG_SIZE_U64
        | KVM_REG_ARM64_SYSREG
        | op0 << 14
        | op1 << 11
        | crn << 7
        | crm << 3
        | op2
    )


def _core_registers() -> dict[str, int]:
    pt, fp = kvm_regs.regs.offset, kvm_regs.fp_regs.offset
    found = {f"X{n}": core(pt + 8 * n, 8) for n in range(31)}
    found |= {
        "SP_EL0": core(pt + user_pt_regs.sp.offset, 8),
        "PC": core(pt + user_pt_regs.pc.offset, 8),
        "PSTATE": core(pt + user_pt_regs.pstate.offset, 8),
        "SP_EL1": core(kvm_regs.sp_el1.offset, 8),
        "ELR_EL1": core(kvm_regs.elr_el1.offset, 8),
    }
    for n, name in enumerate(("SPSR_EL1", "SPSR_ABT", "SPSR_UND", "SPSR_IRQ", "SPSR_FIQ")):
        found[name] = core(kvm_regs.spsr.offset + 8 * n, 8)
    found |= {f"V{n}": core(fp + 16 * n, 16) for n in range(32)}
    found["FPSR"] = core(fp + user_fpsimd_state.fpsr.offset, 4)
    found["FPCR"] = core(fp + user_fpsimd_state.fpcr.offset, 4)
    return found


#: Name -> identifier: general and floating-point registers, then system registers.
REGISTERS: dict[str, int] = {
    **_core_registers(),
    **{
        name: system(*where, op2)
        for where, names in _SYSTEM.items()
        for op2, name in enumerate(names.split())
        if name != "."
    },
    **{name: KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_FW | n for n, name in enumerate(_FIRMWARE)},
    **{
        name: KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_FW_FEAT_BMAP | n
        for n, name in enumerate(_BITMAPS)
    },
}
_NAMES = {identifier: name for name, identifier in REGISTERS.items()}


def name_of(identifier: int) -> str:
    """A readable name for the register of a 64-bit *identifier* that KVM_GET_REG_LIST lists."""
    known = _NAMES.get(identifier)
    if known is not None:
        return known
    kind, low = identifier & KVM_REG_ARM_COPROC_MASK, identifier & 0xFFFF
    if kind == KVM_REG_ARM64_SYSREG:
        return f"S{low >> 14}_{low >> 11 & 7}_C{low >> 7 & 15}_C{low >> 3 & 15}_{low & 7}"
    if kind == KVM_REG_ARM_DEMUX:
        return f"CCSIDR_EL1[{low & 0xFF}]"
    if kind == KVM_REG_ARM64_SVE:
        number = low >> 5
        if number < 32:
            return f"Z{number}[{low & 31}]"
        if number < 48:
            return f"P{number - 32}[{low & 31}]"
        return "FFR" if number == 48 else "SVE_VLS"
    size = 1 << ((identifier & KVM_REG_SIZE_MASK) >> 52)
    return f"KVM_REG_{kind >> 16:#x}_{low:#x}_{size}"
