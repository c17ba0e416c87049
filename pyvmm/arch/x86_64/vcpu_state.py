"""Where an x86-64 vCPU is, and whether it can ever run again by itself."""

from __future__ import annotations

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
