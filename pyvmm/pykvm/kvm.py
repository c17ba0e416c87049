"""/dev/kvm itself: what this host offers, and making VMs."""

from __future__ import annotations

import os
from ctypes import get_errno
from errno import EINTR

from pyvmm.host.libc import ioctl
from pyvmm.host.opened import open_file
from pyvmm.pykvm import cpuid, ioctls, ioctls_x86, msrs
from pyvmm.pykvm.caps import capability
from pyvmm.pykvm.errors import KvmError, failed
from pyvmm.pykvm.handle import Handle
from pyvmm.pykvm.vm import Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.pykvm.cpuid import Leaf

API_VERSION = 12


class Kvm(Handle):
    """The system handle. Raises KvmError when the device is missing, refused or not KVM.

    All methods raise KvmError when KVM refuses.

    :param path: the device
    """

    __slots__ = ("path",)

    def __init__(self, path: str = "/dev/kvm") -> None:
        self.path = path
        try:
            fd = open_file(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            from pyvmm.pykvm import advice

            code = error.errno or 0
            raise KvmError(f"opening {path}", code, advice.for_failure("open", code)) from None
        super().__init__(fd)
        try:
            version = self.ioctl(ioctls.KVM_GET_API_VERSION)
        except KvmError as error:
            self.close()
            raise KvmError(
                f"opening {path}", error.errno, "this is not KVM's device; give the right path"
            ) from None
        if version != API_VERSION:
            self.close()
            advice_text = (
                f"this KVM speaks version {version} of its interface, not {API_VERSION}; use a newer kernel"
            )
            raise KvmError(f"opening {path}", 0, advice_text)

    def check_extension(self, name: str | int) -> int:
        """What KVM says of the capability *name* (``"IRQCHIP"``): 0 for no, else 1 or a number it stands for.

        Some answers depend on the VM: ask the Vm then. Raises ValueError for a name KVM does not have.
        """
        return self.ioctl(ioctls.KVM_CHECK_EXTENSION, capability(name))

    def vcpu_mmap_size(self) -> int:
        """The size of a vCPU's run mapping in bytes."""
        return self.ioctl(ioctls.KVM_GET_VCPU_MMAP_SIZE)

    def create_vm(self, machine_type: int = 0) -> Vm:
        """A new VM with no memory and no vCPUs.

        :param machine_type: 0 for the default; on arm64 the guest's physical address bits (32-52)
        """
        while True:
            fd: int = ioctl(self.fd, ioctls.KVM_CREATE_VM, machine_type)
            if fd >= 0:
                return Vm(fd, self.vcpu_mmap_size())
            if get_errno() != EINTR:  # a signal can interrupt the registration of MMU notifiers
                raise failed(ioctls.KVM_CREATE_VM, get_errno())

    def get_supported_cpuid(self) -> list[Leaf]:
        """The CPUID leaves KVM can give a guest: ``(function, index, flags, [eax, ebx, ecx, edx])``."""
        return cpuid.fetch(self, ioctls_x86.KVM_GET_SUPPORTED_CPUID)

    def get_emulated_cpuid(self) -> list[Leaf]:
        """The CPUID features KVM emulates at a cost; leaves as in get_supported_cpuid."""
        return cpuid.fetch(self, ioctls_x86.KVM_GET_EMULATED_CPUID)

    def get_msr_index_list(self) -> list[int]:
        """The numbers of the MSRs that get_msrs and set_msrs of a vCPU take."""
        return msrs.fetch_list(self, ioctls_x86.KVM_GET_MSR_INDEX_LIST)

    def get_msr_feature_index_list(self) -> list[int]:
        """The numbers of the MSRs that say what the host's processor can do; see get_msrs."""
        return msrs.fetch_list(self, ioctls_x86.KVM_GET_MSR_FEATURE_INDEX_LIST)

    def get_msrs(self, indexes: Iterable[int]) -> dict[int, int]:
        """The host's feature MSRs *indexes*, up to the first KVM does not know: number -> value."""
        buffer = msrs.pack((index, 0) for index in indexes)
        return msrs.unpack(buffer, self.ioctl(ioctls_x86.KVM_GET_MSRS, buffer))
