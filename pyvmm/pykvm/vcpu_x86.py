"""The x86-64 side of a vCPU: its registers.

Source: Linux Documentation/virt/kvm/api.rst, section 4.
"""

from __future__ import annotations

from ctypes import create_string_buffer

from pyvmm.pykvm import cpuid, ioctls_x86, msrs
from pyvmm.pykvm.abi_x86 import kvm_lapic_state, kvm_regs, kvm_sregs
from pyvmm.pykvm.attributes import VmOrVcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyvmm.pykvm.abi_x86_state import kvm_debugregs, kvm_fpu, kvm_sregs2, kvm_xcrs, kvm_xsave
    from pyvmm.pykvm.cpuid import Leaf

_XSAVE_SIZE = 4096


class X86Vcpu(VmOrVcpu):
    """What only x86-64 vCPUs have. A structure that was read can be changed and set again.

    All methods raise KvmError when KVM refuses.
    """

    __slots__ = ()

    def get_regs(self) -> kvm_regs:
        """General registers, instruction pointer, flags."""
        return self.get(ioctls_x86.KVM_GET_REGS, kvm_regs)

    def set_regs(self, regs: kvm_regs) -> None:
        """Set what get_regs gives."""
        self.put(ioctls_x86.KVM_SET_REGS, regs)

    def get_sregs(self) -> kvm_sregs:
        """Segments, descriptor tables, control registers, EFER, APIC base."""
        return self.get(ioctls_x86.KVM_GET_SREGS, kvm_sregs)

    def set_sregs(self, sregs: kvm_sregs) -> None:
        """Set what get_sregs gives."""
        self.put(ioctls_x86.KVM_SET_SREGS, sregs)

    def get_sregs2(self) -> kvm_sregs2:
        """As get_sregs, with the page directory pointers of PAE instead of pending interrupts."""
        from pyvmm.pykvm.abi_x86_state import kvm_sregs2

        return self.get(ioctls_x86.KVM_GET_SREGS2, kvm_sregs2)

    def set_sregs2(self, sregs: kvm_sregs2) -> None:
        """Set what get_sregs2 gives."""
        self.put(ioctls_x86.KVM_SET_SREGS2, sregs)

    def get_lapic(self) -> kvm_lapic_state:
        """The local APIC's register page: a register every 16 bytes of ``regs``."""
        return self.get(ioctls_x86.KVM_GET_LAPIC, kvm_lapic_state)

    def set_lapic(self, lapic: kvm_lapic_state) -> None:
        """Set what get_lapic gives."""
        self.put(ioctls_x86.KVM_SET_LAPIC, lapic)

    def get_fpu(self) -> kvm_fpu:
        """x87 and SSE registers."""
        from pyvmm.pykvm.abi_x86_state import kvm_fpu

        return self.get(ioctls_x86.KVM_GET_FPU, kvm_fpu)

    def set_fpu(self, fpu: kvm_fpu) -> None:
        """Set what get_fpu gives."""
        self.put(ioctls_x86.KVM_SET_FPU, fpu)

    def get_xsave(self) -> kvm_xsave:
        """The XSAVE area as far as it fits into 4096 bytes; get_xsave2 gives all of it."""
        from pyvmm.pykvm.abi_x86_state import kvm_xsave

        return self.get(ioctls_x86.KVM_GET_XSAVE, kvm_xsave)

    def get_xsave2(self, size: int) -> bytes:
        """The XSAVE area.

        :param size: what the VM's check_extension("XSAVE2") says, at least 4096
        """
        buffer = create_string_buffer(size)
        self.ioctl(ioctls_x86.KVM_GET_XSAVE2, buffer)
        return buffer.raw

    def set_xsave(self, area: kvm_xsave | bytes) -> None:
        """Set what get_xsave or get_xsave2 gives. Raises ValueError for less than 4096 bytes."""
        data = bytes(area)
        if len(data) < _XSAVE_SIZE:
            raise ValueError(f"an XSAVE area has at least {_XSAVE_SIZE} bytes, not {len(data)}")
        self.ioctl(ioctls_x86.KVM_SET_XSAVE, create_string_buffer(data, len(data)))

    def get_xcrs(self) -> kvm_xcrs:
        """The extended control registers (XCR0)."""
        from pyvmm.pykvm.abi_x86_state import kvm_xcrs

        return self.get(ioctls_x86.KVM_GET_XCRS, kvm_xcrs)

    def set_xcrs(self, xcrs: kvm_xcrs) -> None:
        """Set what get_xcrs gives."""
        self.put(ioctls_x86.KVM_SET_XCRS, xcrs)

    def get_debugregs(self) -> kvm_debugregs:
        """DR0 to DR3, DR6, DR7."""
        from pyvmm.pykvm.abi_x86_state import kvm_debugregs

        return self.get(ioctls_x86.KVM_GET_DEBUGREGS, kvm_debugregs)

    def set_debugregs(self, debugregs: kvm_debugregs) -> None:
        """Set what get_debugregs gives."""
        self.put(ioctls_x86.KVM_SET_DEBUGREGS, debugregs)

    def get_msrs(self, indexes: Iterable[int]) -> dict[int, int]:
        """MSRs by number, up to the first KVM refuses: number -> value."""
        buffer = msrs.pack((index, 0) for index in indexes)
        return msrs.unpack(buffer, self.ioctl(ioctls_x86.KVM_GET_MSRS, buffer))

    def set_msrs(self, values: Mapping[int, int]) -> int:
        """Set MSRs, number -> value, in order; how many KVM took before the first it refused."""
        return self.ioctl(ioctls_x86.KVM_SET_MSRS, msrs.pack(values.items()))

    def get_cpuid2(self) -> list[Leaf]:
        """The CPUID leaves the guest sees: ``(function, index, flags, [eax, ebx, ecx, edx])``."""
        return cpuid.fetch(self, ioctls_x86.KVM_GET_CPUID2)

    def set_cpuid2(self, leaves: Iterable[Leaf]) -> None:
        """Set what CPUID answers in the guest; before it runs."""
        self.ioctl(ioctls_x86.KVM_SET_CPUID2, cpuid.pack(leaves))

    def get_tsc_khz(self) -> int:
        """The guest's time stamp counter, in kHz."""
        return self.ioctl(ioctls_x86.KVM_GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """Let the guest's time stamp counter run at *khz* kHz.

        A rate that is not the host's needs the capability TSC_CONTROL.
        """
        self.ioctl(ioctls_x86.KVM_SET_TSC_KHZ, khz)

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        self.ioctl(ioctls_x86.KVM_NMI)

    def kvmclock_ctrl(self) -> None:
        """Tell the guest that it was paused, so that its watchdogs keep quiet.

        KVM refuses with EINVAL while the guest does not use its paravirtual clock.
        """
        self.ioctl(ioctls_x86.KVM_KVMCLOCK_CTRL)
