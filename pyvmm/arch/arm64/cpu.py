"""A vCPU's features and its initial state.

Sources: Linux Documentation/virt/kvm/api.rst, 4.82 (KVM_ARM_VCPU_INIT) and
Documentation/virt/kvm/devices/vcpu.rst (PMU); Documentation/arm64/booting.rst, "Call the kernel image".
"""

from __future__ import annotations

from pyvmm.arch import cpu_model
from pyvmm.arch.arm64 import layout
from pyvmm.errors import StartError
from pyvmm.pykvm import const_arm64 as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.boot.entry import BootEntry
    from pyvmm.pykvm import Kvm, Vcpu, Vm

#: Features of ``--cpu``: name -> (KVM's feature bits, the capabilities they need, whether on by default).
FEATURES = {
    "pauth": (
        (c.KVM_ARM_VCPU_PTRAUTH_ADDRESS, c.KVM_ARM_VCPU_PTRAUTH_GENERIC),
        ("ARM_PTRAUTH_ADDRESS", "ARM_PTRAUTH_GENERIC"),
        True,
    ),
    "pmu": ((c.KVM_ARM_VCPU_PMU_V3,), ("ARM_PMU_V3",), False),
    "sve": ((c.KVM_ARM_VCPU_SVE,), ("ARM_SVE",), False),
}

#: EL1 with its own stack, all interrupts masked.
PSTATE_EL1H_MASKED = 0x3C5
#: The part of MPIDR_EL1 that numbers a CPU.
MPIDR_AFFINITY = 0xFF_00FF_FFFF


class Arm64CpuModel(cpu_model.CpuModel):
    """The features a vCPU is asked to have."""

    __slots__ = ()
    example = "host,+pmu"
    names = f"of {', '.join(FEATURES)}"

    def known(self, name: str) -> bool:
        """Whether *name* can be selected."""
        return name in FEATURES

    def features(self, kvm: Kvm) -> frozenset[str]:
        """The features a vCPU gets. Raises StartError for a required one that KVM does not offer."""
        found = set()
        for name, (_, needs, default) in FEATURES.items():
            there = all(kvm.check_extension(capability) for capability in needs)
            if name in self.required and not there:
                raise StartError(f"cpu: this host's KVM does not offer {name}; leave +{name} out of --cpu")
            if there and name not in self.masked and (default or name in self.required):
                found.add(name)
        return frozenset(found)


def initialize(vm: Vm, vcpu: Vcpu, index: int, features: frozenset[str]) -> None:
    """Initialize vCPU *index*, from 0, with the host's preferred target; all but 0 wait for PSCI CPU_ON."""
    init = vm.arm_preferred_target()
    bits = [c.KVM_ARM_VCPU_PSCI_0_2, *(bit for name in features for bit in FEATURES[name][0])]
    if index:
        bits.append(c.KVM_ARM_VCPU_POWER_OFF)
    for bit in bits:
        init.features[bit // 32] |= 1 << bit % 32
    vcpu.arm_vcpu_init(init)
    if "sve" in features:
        vcpu.arm_vcpu_finalize(c.KVM_ARM_VCPU_SVE)


def start_pmu(vcpu: Vcpu) -> None:
    """Set the PMU's interrupt; after the interrupt controller was initialized."""
    number = layout.PPI_FIRST_INTID + layout.PMU_PPI
    group = c.KVM_ARM_VCPU_PMU_V3_CTRL
    vcpu.set_device_attr(group, c.KVM_ARM_VCPU_PMU_V3_IRQ, number.to_bytes(4, "little"))
    vcpu.set_device_attr(group, c.KVM_ARM_VCPU_PMU_V3_INIT)


def affinity(vcpu: Vcpu) -> int:
    """The CPU's ``reg`` in the device tree: the affinity fields of MPIDR_EL1."""
    from pyvmm.arch.arm64.registers import REGISTERS

    return vcpu.get_one_reg(REGISTERS["MPIDR_EL1"]) & MPIDR_AFFINITY


def set_entry(vcpu: Vcpu, entry: BootEntry) -> None:
    """Set CPU 0's registers as *entry* says; those it does not name are zero."""
    from pyvmm.arch.arm64.registers import REGISTERS

    assert entry.ip is not None, "there is no reset vector on arm64"
    vcpu.set_one_reg(REGISTERS["PSTATE"], PSTATE_EL1H_MASKED)
    vcpu.set_one_reg(REGISTERS["PC"], entry.ip)
    for name, value in entry.registers.items():
        vcpu.set_one_reg(REGISTERS[name.upper()], value)
