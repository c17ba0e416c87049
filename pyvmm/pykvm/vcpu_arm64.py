"""The arm64 side of a vCPU.

Source: Linux Documentation/virt/kvm/api.rst, 4.82 (KVM_ARM_VCPU_INIT), 4.118 (KVM_ARM_VCPU_FINALIZE).
"""

from __future__ import annotations

from ctypes import c_int

from pyvmm.pykvm.attributes import VmOrVcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm.abi_arm64 import kvm_vcpu_init


class Arm64Vcpu(VmOrVcpu):
    """What only arm64 vCPUs can do; registers are read and set by ``get_one_reg`` and ``set_one_reg``.

    All methods raise KvmError when KVM refuses.
    """

    __slots__ = ()

    def arm_vcpu_init(self, init: kvm_vcpu_init) -> None:
        """Reset the vCPU to the target and features *init* names; before anything else."""
        from pyvmm.pykvm.ioctls_arm64 import KVM_ARM_VCPU_INIT

        self.put(KVM_ARM_VCPU_INIT, init)

    def arm_vcpu_finalize(self, feature: int) -> None:
        """Fix the configuration of *feature* (KVM_ARM_VCPU_SVE) after its registers were set."""
        from pyvmm.pykvm.ioctls_arm64 import KVM_ARM_VCPU_FINALIZE

        self.put(KVM_ARM_VCPU_FINALIZE, c_int(feature))
