"""Those structures that go by one name and differ by architecture, as this host has them."""

from __future__ import annotations

from os import uname

if uname().machine == "aarch64":
    from pyvmm.pykvm.abi_arm64 import kvm_debug_exit_arch, kvm_guest_debug, kvm_sync_regs, kvm_vcpu_events
    from pyvmm.pykvm.ioctls_arm64 import KVM_SET_GUEST_DEBUG
else:
    from pyvmm.pykvm.abi_x86_state import (  # type: ignore[assignment]
        kvm_debug_exit_arch,
        kvm_guest_debug,
        kvm_sync_regs,
        kvm_vcpu_events,
    )
    from pyvmm.pykvm.ioctls_x86 import KVM_SET_GUEST_DEBUG

__all__ = [
    "KVM_SET_GUEST_DEBUG",
    "kvm_debug_exit_arch",
    "kvm_guest_debug",
    "kvm_sync_regs",
    "kvm_vcpu_events",
]
