"""Which virtualization this host's KVM uses, and how fast it runs a guest's EL1."""

from __future__ import annotations

import time

from pyvmm.arch.arm64 import layout
from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm import Kvm

EL2 = "EL2"

#: The capabilities that every machine needs.
NEEDED = ("IRQCHIP", "USER_MEMORY", "ONE_REG", "ARM_PSCI_0_2", "DEVICE_CTRL", "IMMEDIATE_EXIT")
#: The capabilities that are used where KVM has them.
USED = (
    "IOEVENTFD",
    "IRQFD",
    "COALESCED_MMIO",
    "READONLY_MEM",
    "BINARY_STATS_FD",
    "ARM_VM_IPA_SIZE",
    "ARM_NISV_TO_USER",
    "ARM_PTRAUTH_ADDRESS",
    "ARM_PTRAUTH_GENERIC",
    "ARM_PMU_V3",
    "ARM_SVE",
    "SYNC_MMU",
)

#: ``movz x0, #20000``; ``subs x0, x0, #1``; ``b.ne`` to it; ``str wzr, [x1]``; ``b .``.
_ROUNDS = 20000
_CODE = b"".join(
    word.to_bytes(4, "little") for word in (0xD289C400, 0xF1000400, 0x54FFFFE1, 0xB900003F, 0x14000000)
)


def virtualization() -> str:
    """The virtualization that KVM uses: always the processor's EL2."""
    return EL2


def runs_ring0_in_hardware() -> bool:
    """Whether guests' kernels run on the processor itself."""
    return True


def describe_virtualization(speed: str) -> tuple[bool, str, str]:
    """For doctor: whether guests' kernels run at full speed, a description, and advice where they do not."""
    return True, f"{EL2}; {speed}", ""


def kernel_warning() -> str:
    """A warning for users who boot a kernel on this host: none."""
    return ""


def extras(kvm: Kvm) -> list[tuple[str, str]]:
    """For doctor: further lines, ``(name, value)`` each."""
    versions = gic_versions(kvm)
    bits = kvm.check_extension("ARM_VM_IPA_SIZE") or 40
    return [
        ("interrupt controller", ", ".join(f"GICv{n}" for n in versions) or "none that KVM emulates"),
        ("guest addresses", f"{bits} bits"),
    ]


def gic_versions(kvm: Kvm) -> list[int]:
    """The interrupt controllers that KVM emulates here, newest first."""
    from pyvmm.arch.arm64.gic import Gic

    found = []
    for version in ("3", "2"):
        with kvm.create_vm() as vm:
            try:
                Gic(vm, version, 1).close()
            except StartError:
                continue
            found.append(int(version))
    return found


def ring0_speed(kvm: Kvm) -> float:
    """Instructions per second of a loop at EL1. Raises KvmError, HostMemoryError."""
    from pyvmm.arch.arm64 import cpu
    from pyvmm.arch.arm64.registers import REGISTERS
    from pyvmm.memory.guest import GuestMemory, Region
    from pyvmm.memory.host import Anonymous
    from pyvmm.memory.slots import Slots
    from pyvmm.pykvm import KvmError

    memory = GuestMemory([Region(layout.RAM, 0x10000, Anonymous(0x10000))])
    try:
        with kvm.create_vm() as vm:
            Slots(vm, memory).install()
            memory.write(layout.RAM, _CODE)
            with vm.create_vcpu(0) as vcpu:
                cpu.initialize(vm, vcpu, 0, frozenset())
                vcpu.set_one_reg(REGISTERS["PC"], layout.RAM)
                vcpu.set_one_reg(REGISTERS["X1"], layout.UART0)
                begin = time.perf_counter()
                if vcpu.run_raw() < 0:
                    raise KvmError("KVM_RUN", vcpu.last_errno(), "")
                return 2 * _ROUNDS / (time.perf_counter() - begin)
    finally:
        memory.close()
