"""A device that KVM emulates in the kernel, such as the arm64 interrupt controller."""

from __future__ import annotations

from pyvmm.pykvm.attributes import Attributes


class KvmDevice(Attributes):
    """What ``Vm.create_device`` gives; it does what its attributes say."""

    __slots__ = ()
