"""The ending of a guest that KVM cannot run any further: instruction, address, what to do about it."""

from __future__ import annotations

import os

from pyvmm.arch import native
from pyvmm.machine.ending import CRASHED, INFERRED, UNSUPPORTED, Ending
from pyvmm.pykvm.const import (
    KVM_EXIT_ARM_NISV,
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_HLT,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_SHUTDOWN,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.pykvm import Vcpu

# Of <linux/kvm.h>: sub-errors of KVM_EXIT_INTERNAL_ERROR.
_SUBERRORS = {
    1: "it cannot emulate an instruction",
    2: "the guest raised exceptions within exceptions that it cannot deliver",
    3: "it failed to deliver an event",
    4: "the processor left the guest for a reason that KVM does not know",
}
EMULATION = 1

_inspection = native.inspection()
instruction = _inspection.instruction


def diagnose(
    vcpu: Vcpu, index: int, memory: GuestMemory, image: str | None, reason: int, number: int = 0
) -> Ending:
    """The ending of a machine whose vCPU *index* cannot go on.

    :param image: the file that the guest was booted from; an ELF file's symbols name the place
    :param reason: the exit reason that KVM_RUN returned
    :param number: the errno it failed with instead; 0 for none
    """

    def symbol(address: int) -> str:
        return _symbol(image, address)

    if reason == KVM_EXIT_SHUTDOWN and not number:
        where = _inspection.where_shut_down(vcpu, symbol)
        return Ending(CRASHED, "triple-fault", INFERRED, f"triple fault on vCPU {index}{where}")
    where = _inspection.where(vcpu, symbol)
    if number:
        return run_failed(index, number, where)
    if reason == KVM_EXIT_INTERNAL_ERROR:
        return internal_error(vcpu, index, memory, where)
    if reason == KVM_EXIT_FAIL_ENTRY:
        return fail_entry(vcpu, index, where)
    if reason == KVM_EXIT_ARM_NISV:
        return no_syndrome(vcpu, index, memory, where)
    if reason == KVM_EXIT_HLT:
        detail = f"vCPU {index} halted with no interrupt controller to wake it"
        return Ending(UNSUPPORTED, "halt", INFERRED, detail)
    detail = f"vCPU {index}: KVM_RUN returned exit reason {reason}, which pyvmm does not handle"
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def internal_error(vcpu: Vcpu, index: int, memory: GuestMemory, where: str) -> Ending:
    """KVM_EXIT_INTERNAL_ERROR on vCPU *index*: names an instruction that KVM could not emulate."""
    suberror = vcpu.run.internal.suberror
    if suberror == EMULATION:
        text, mnemonic = instruction(vcpu, memory)
        detail = f"vCPU {index}: KVM cannot emulate {text}{where}{_inspection.advice(mnemonic)}"
    else:
        what = _SUBERRORS.get(suberror, f"suberror {suberror}")
        detail = f"vCPU {index}: KVM gave up: {what}{where}"
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def fail_entry(vcpu: Vcpu, index: int, where: str) -> Ending:
    """KVM_EXIT_FAIL_ENTRY: the processor refused the state of vCPU *index*."""
    reason = vcpu.run.fail_entry.hardware_entry_failure_reason
    detail = f"vCPU {index}: the processor refused to enter the guest, hardware reason {reason:#x}{where}"
    return Ending(UNSUPPORTED, "fail-entry", INFERRED, detail)


def run_failed(index: int, number: int, where: str) -> Ending:
    """KVM_RUN of vCPU *index* failed with errno *number*."""
    detail = f"vCPU {index}: KVM_RUN failed: {os.strerror(number)}{where}"
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def no_syndrome(vcpu: Vcpu, index: int, memory: GuestMemory, where: str) -> Ending:
    """KVM_EXIT_ARM_NISV: vCPU *index* accessed a device without a syndrome (ESR_EL2.ISV is 0)."""
    address = vcpu.run.arm_nisv.fault_ipa
    text, _ = instruction(vcpu, memory)
    detail = (
        f"vCPU {index}: {text}{where} touches the device address {address:#x}, and the processor "
        "tells KVM nothing of such accesses; build the guest with single loads and stores for devices"
    )
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def _symbol(image: str | None, address: int) -> str:
    if image is None:
        return ""
    from pyvmm.boot.symbols import symbol_at

    return symbol_at(image, address)
