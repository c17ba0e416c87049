"""What VMs, vCPUs and in-kernel devices have in common: attributes, capabilities to turn on, statistics.

Source: Linux Documentation/virt/kvm/api.rst, 4.37 (KVM_ENABLE_CAP), 4.80 (device attributes),
4.133 (statistics).
"""

from __future__ import annotations

from ctypes import addressof, create_string_buffer
from errno import ENODEV, ENXIO, EPERM

from pyvmm.pykvm import ioctls
from pyvmm.pykvm.caps import capability
from pyvmm.pykvm.errors import KvmError
from pyvmm.pykvm.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm.stats import Statistics


class Attributes(Handle):
    """A handle with attributes, each known by its group and its number in the group.

    *group* and *attr* are the constants of ``const_arm64`` or of linux/kvm.h, such as
    KVM_DEV_ARM_VGIC_GRP_ADDR.
    """

    __slots__ = ()

    def set_device_attr(self, group: int, attr: int, data: bytes = b"") -> None:
        """Set attribute *attr* of *group* to *data*, whose length the attribute determines.

        Raises KvmError.
        """
        from pyvmm.pykvm.abi_device import kvm_device_attr

        buffer = create_string_buffer(data, len(data) or 1)
        address = addressof(buffer) if data else 0
        self.put(ioctls.KVM_SET_DEVICE_ATTR, kvm_device_attr(group=group, attr=attr, addr=address))

    def get_device_attr(self, group: int, attr: int, size: int, data: bytes = b"") -> bytes:
        """The *size* bytes of attribute *attr* of *group*; KVM reads *data* first, where it needs input.

        Raises KvmError.
        """
        from pyvmm.pykvm.abi_device import kvm_device_attr

        buffer = create_string_buffer(data, size)
        self.put(ioctls.KVM_GET_DEVICE_ATTR, kvm_device_attr(group=group, attr=attr, addr=addressof(buffer)))
        return buffer.raw

    def has_device_attr(self, group: int, attr: int) -> bool:
        """Whether attribute *attr* of *group* exists. Raises KvmError when KVM cannot say."""
        from pyvmm.pykvm.abi_device import kvm_device_attr

        try:
            self.put(ioctls.KVM_HAS_DEVICE_ATTR, kvm_device_attr(group=group, attr=attr))
        except KvmError as error:
            if error.errno in (ENXIO, ENODEV, EPERM):
                return False
            raise
        return True


class VmOrVcpu(Attributes):
    """What a VM and a vCPU both have."""

    __slots__ = ()

    def enable_cap(self, name: str | int, *args: int) -> None:
        """Turn on the capability *name* with up to four arguments; raises KvmError."""
        from pyvmm.pykvm.abi_vcpu import kvm_enable_cap

        request = kvm_enable_cap(cap=capability(name))
        for i, value in enumerate(args):
            request.args[i] = value
        self.put(ioctls.KVM_ENABLE_CAP, request)

    def statistics(self) -> Statistics:
        """KVM's counters, to be read as often as wanted and closed; raises KvmError."""
        from pyvmm.pykvm.stats import Statistics

        return Statistics(self.ioctl(ioctls.KVM_GET_STATS_FD))
