"""KVM, the hypervisor in the Linux kernel, through ctypes.

::

    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        ...

Methods carry the name of the ioctl, in lower case and without ``KVM_``; structures keep the
kernel's name and quote its C text. Nothing here is specific to a machine or a device model.
docs/guide/pykvm.md shows a whole program. Source: Linux Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

from pyvmm.pykvm.errors import KvmError
from pyvmm.pykvm.kvm import Kvm
from pyvmm.pykvm.vcpu import Vcpu
from pyvmm.pykvm.vm import Vm

__all__ = ["Kvm", "KvmError", "Vcpu", "Vm"]
