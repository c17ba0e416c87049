"""A device that KVM emulates in the kernel, such as the arm64 interrupt controller."""

from __future__ import annotations

from pyvmm.pykvm.attributes import Attributes


class KvmDevice(Attributes):
    """Made by ``Vm.create_device``; controlled by its attributes."""

    __slots__ = ()
