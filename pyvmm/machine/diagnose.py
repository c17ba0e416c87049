"""What to tell when KVM cannot go on: the instruction, the place, what to do about it."""

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
    4: "it met an exit it does not know",
}
EMULATION = 1

_inspection = native.inspection()
where = _inspection.where
instruction = _inspection.instruction


def diagnose(vcpu: Vcpu, index: int, memory: GuestMemory, reason: int, number: int = 0) -> Ending:
    """The ending of a machine whose vCPU *index* cannot go on.

    :param reason: the exit reason that KVM_RUN returned
    :param number: the errno it failed with instead; 0 for none
    """
    if number:
        return run_failed(vcpu, index, number)
    if reason == KVM_EXIT_SHUTDOWN:
        return Ending(CRASHED, "triple-fault", INFERRED, f"triple fault on vCPU {index}{where(vcpu)}")
    if reason == KVM_EXIT_INTERNAL_ERROR:
        return internal_error(vcpu, index, memory)
    if reason == KVM_EXIT_FAIL_ENTRY:
        return fail_entry(vcpu, index)
    if reason == KVM_EXIT_ARM_NISV:
        return no_syndrome(vcpu, index, memory)
    if reason == KVM_EXIT_HLT:
        detail = f"vCPU {index} halted with no interrupt controller to wake it"
        return Ending(UNSUPPORTED, "halt", INFERRED, detail)
    detail = f"vCPU {index}: KVM_RUN returned exit reason {reason}, which pyvmm does not handle"
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def internal_error(vcpu: Vcpu, index: int, memory: GuestMemory) -> Ending:
    """KVM_EXIT_INTERNAL_ERROR: names the instruction when there is one it could not emulate."""
    suberror = vcpu.run.internal.suberror
    if suberror == EMULATION:
        text, mnemonic = instruction(vcpu, memory)
        detail = f"vCPU {index}: KVM cannot emulate {text}{where(vcpu)}{_inspection.advice(mnemonic)}"
    else:
        what = _SUBERRORS.get(suberror, f"suberror {suberror}")
        detail = f"vCPU {index}: KVM gave up: {what}{where(vcpu)}"
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def fail_entry(vcpu: Vcpu, index: int) -> Ending:
    """KVM_EXIT_FAIL_ENTRY: the processor refused the guest's state."""
    reason = vcpu.run.fail_entry.hardware_entry_failure_reason
    detail = (
        f"vCPU {index}: the processor refused to enter the guest, hardware reason {reason:#x}{where(vcpu)}"
    )
    return Ending(UNSUPPORTED, "fail-entry", INFERRED, detail)


def run_failed(vcpu: Vcpu, index: int, number: int) -> Ending:
    """KVM_RUN itself failed with errno *number*."""
    detail = f"vCPU {index}: KVM_RUN failed: {os.strerror(number)}{where(vcpu)}"
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)


def no_syndrome(vcpu: Vcpu, index: int, memory: GuestMemory) -> Ending:
    """KVM_EXIT_ARM_NISV: an access to a device by an instruction that the processor does not explain."""
    address = vcpu.run.arm_nisv.fault_ipa
    text, _ = instruction(vcpu, memory)
    detail = (
        f"vCPU {index}: {text}{where(vcpu)} touches the device address {address:#x}, and the processor "
        "tells KVM nothing of such accesses; build the guest with single loads and stores for devices"
    )
    return Ending(UNSUPPORTED, "unsupported", INFERRED, detail)
