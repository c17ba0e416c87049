"""What to do about a failed request, where that is known. Loaded when one fails.

Source: Linux Documentation/virt/kvm/api.rst, and the checks in virt/kvm/ and arch/x86/kvm/.
"""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    EMFILE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOEXEC,
    ENOMEM,
    ENOTTY,
    ENXIO,
    EPERM,
)
from os import uname

_ALWAYS: dict[int, str] = {
    EBADF: "the handle, or a descriptor passed to KVM, is closed; make a new one",
    EMFILE: "this process has too many files open; raise the limit with 'ulimit -n'",
    ENFILE: "this host has too many files open; raise the limit with 'sysctl fs.file-max'",
    ENOMEM: "this host has no memory left for it; give the guests less, or stop others",
    ENOTTY: "this host's KVM has no such request; ask check_extension() before, or use a newer kernel",
    EPERM: "the process that made the VM alone may use it; after a fork make a new one",
}

_SPECIAL = {
    ("open", ENOENT): (
        "this host has no such device; load KVM with 'modprobe kvm_intel' or 'modprobe kvm_amd', turn "
        "virtualization on in the firmware setup, or pass --device /dev/kvm to the container"
    ),
    ("open", EACCES): (
        "this user may not use it; join group kvm with 'sudo usermod -aG kvm $USER' and log in again"
    ),
    ("open", EPERM): "the container does not let this device through; start it with --device /dev/kvm",
    (
        "open",
        ENXIO,
    ): "the device node has no driver behind it; load KVM with 'modprobe kvm_intel' or 'modprobe kvm_amd'",
    ("open", ENODEV): "the processor's virtualization is off or taken; turn it on in the firmware setup",
    (
        "KVM_CREATE_VM",
        EBUSY,
    ): "another hypervisor holds the processor's virtualization; stop it and unload its module",
    ("KVM_CREATE_VM", EINVAL): "this host's KVM does not offer that machine type; use 0",
    ("KVM_CREATE_VCPU", EEXIST): "the VM already has a vCPU of that index; count them from 0",
    ("KVM_CREATE_VCPU", EINVAL): (
        "the index is beyond check_extension('MAX_VCPU_ID'), or the VM has check_extension('MAX_VCPUS')"
    ),
    ("KVM_SET_USER_MEMORY_REGION", EEXIST): "it overlaps another slot of the VM; move one of them",
    ("KVM_SET_USER_MEMORY_REGION", EINVAL): (
        "guest address, host address and size must be multiples of the page size, the slot below "
        "check_extension('NR_MEMSLOTS'), and a slot in use may change neither its size nor its host address"
    ),
    ("KVM_CREATE_IRQCHIP", EEXIST): "the VM already has one",
    ("KVM_CREATE_IRQCHIP", EINVAL): "make it before the first vCPU",
    ("KVM_CREATE_PIT2", EEXIST): "the VM already has one",
    ("KVM_CREATE_PIT2", ENOENT): "it needs the interrupt controllers; call create_irqchip() before",
    ("KVM_SET_TSS_ADDR", EINVAL): "the three pages must lie below 4 GiB",
    ("KVM_SET_IDENTITY_MAP_ADDR", EINVAL): "set it before the first vCPU",
    ("KVM_IRQ_LINE", ENXIO): "the VM has no interrupt controllers; call create_irqchip() before",
    (
        "KVM_SET_GSI_ROUTING",
        EINVAL,
    ): "an entry has an unknown type, chip or pin, or there are too many entries",
    ("KVM_IRQFD", EBUSY): "this eventfd already stands for an interrupt; deassign it before",
    ("KVM_IRQFD", EINVAL): "the VM needs create_irqchip() before, and the interrupt number must be routed",
    (
        "KVM_IOEVENTFD",
        EEXIST,
    ): "an eventfd already answers at that address; deassign it, or tell them apart by datamatch",
    ("KVM_IOEVENTFD", ENOENT): "no eventfd is there with that address, length, datamatch and descriptor",
    ("KVM_IOEVENTFD", EINVAL): "the length must be 0, 1, 2, 4 or 8, and 0 goes with no datamatch",
    ("KVM_REGISTER_COALESCED_MMIO", ENOMEM): "the VM has as many zones as KVM allows; remove one",
    ("KVM_GET_DIRTY_LOG", ENOENT): "the slot has no dirty log; set its region with KVM_MEM_LOG_DIRTY_PAGES",
    ("KVM_CLEAR_DIRTY_LOG", ENOENT): "the slot has no dirty log; set its region with KVM_MEM_LOG_DIRTY_PAGES",
    ("KVM_SET_CPUID2", EINVAL): "the leaves contradict each other, or the vCPU has run: then they are fixed",
    ("KVM_SET_CPUID2", E2BIG): "there are more leaves than KVM takes; leave some out",
    (
        "KVM_GET_LAPIC",
        EINVAL,
    ): "the VM has no interrupt controllers; call create_irqchip() before the first vCPU",
    (
        "KVM_SET_LAPIC",
        EINVAL,
    ): "the VM has no interrupt controllers; call create_irqchip() before the first vCPU",
    ("KVM_SET_SREGS", EINVAL): "control registers, EFER and the code segment contradict each other",
    ("KVM_SET_SREGS2", EINVAL): "control registers, EFER and the code segment contradict each other",
    ("KVM_GET_ONE_REG", ENOENT): "the vCPU has no such register; get_reg_list() lists those it has",
    ("KVM_SET_ONE_REG", ENOENT): "the vCPU has no such register; get_reg_list() lists those it has",
    ("KVM_GET_ONE_REG", ENOEXEC): "call arm_vcpu_init() before",
    ("KVM_SET_ONE_REG", ENOEXEC): "call arm_vcpu_init() before",
    ("KVM_RUN", ENOEXEC): "the vCPU is not initialized; call arm_vcpu_init() before",
    ("KVM_CREATE_DEVICE", ENODEV): "this host's KVM does not emulate that device",
    ("KVM_CREATE_DEVICE", EEXIST): "the VM already has one",
    ("KVM_SET_DEVICE_ATTR", ENXIO): "the device has no such attribute; has_device_attr() tells",
    ("KVM_GET_DEVICE_ATTR", ENXIO): "the device has no such attribute; has_device_attr() tells",
    ("KVM_ENABLE_CAP", EINVAL): "this host's KVM does not offer the capability, or not with these arguments",
}


#: What is otherwise on arm64, where KVM is built into the kernel.
_ON_ARM64 = {
    ("open", ENOENT): (
        "this host has no such device; KVM needs a kernel that was started at EL2, which firmware or a "
        "hypervisor below may withhold; or pass --device /dev/kvm to the container"
    ),
}


def name_of(request: int) -> str:
    """The name of the request number *request*, such as ``KVM_RUN``; the number itself when unknown."""
    from pyvmm.pykvm import ioctls, ioctls_arm64, ioctls_x86

    for module in (ioctls, ioctls_x86, ioctls_arm64):
        for name, value in vars(module).items():
            if value == request and name.startswith("KVM_"):
                return name
    return f"KVM request {request:#x}"


def for_failure(name: str, code: int) -> str:
    """What to do when the request *name* failed with errno *code*; empty when nothing is known."""
    if uname().machine == "aarch64" and (name, code) in _ON_ARM64:
        return _ON_ARM64[name, code]
    return _SPECIAL.get((name, code)) or _ALWAYS.get(code, "")
