"""The guest's CPUID: what KVM supports, with the machine's topology, and features masked.

Sources: Intel SDM volume 2, CPUID; AMD APM volume 3 appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

from pyvmm.arch import cpu_model
from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Key = tuple[int, int]

EAX, EBX, ECX, EDX = range(4)

HYPERVISOR = 1 << 31  # leaf 1 ECX
TSC_DEADLINE = 1 << 24  # leaf 1 ECX
HTT = 1 << 28  # leaf 1 EDX
CMP_LEGACY = 1 << 1  # leaf 0x8000_0001 ECX: HTT means cores, not threads

_TYPE_SMT = 1
_TYPE_CORE = 2


class X86CpuModel(cpu_model.CpuModel):
    """The features a vCPU is asked to have."""

    __slots__ = ()
    example = "host,-avx2"
    names = "with a name as in /proc/cpuinfo"

    def known(self, name: str) -> bool:
        """Whether *name* is in the table."""
        from pyvmm.arch.x86_64.features import FEATURES  # imported here: most starts do not need the table

        return name in FEATURES


class Cpuid:
    """The CPUID leaves of a machine; ``entries(index)`` returns one vCPU's.

    :param supported: ``(function, index, flags, [eax, ebx, ecx, edx])`` as KVM offers them
    :param model: the features asked for
    :param cpus: how many vCPUs share the package, a core each
    :param tsc_deadline: KVM emulates the TSC-deadline timer

    Raises StartError for a required feature that KVM does not offer.
    """

    def __init__(
        self,
        supported: Iterable[tuple[int, int, int, list[int]]],
        model: X86CpuModel,
        cpus: int,
        tsc_deadline: bool,
    ) -> None:
        self._leaves: dict[Key, tuple[int, list[int]]] = {
            (function, index): (flags, list(registers)) for function, index, flags, registers in supported
        }
        self._cpus = cpus
        # Some KVMs provide these and do not list them; without HYPERVISOR a guest does not look for KVM and
        # its clock.
        self._set(1, ECX, HYPERVISOR)
        if tsc_deadline:
            self._set(1, ECX, TSC_DEADLINE)
        for name in model.required - model.masked:
            if not self.has(name):
                raise StartError(f"cpu: this host's KVM does not offer {name}; leave +{name} out of --cpu")
        for name in model.masked:
            leaf, subleaf, register, bit = feature(name)
            if (leaf, subleaf) in self._leaves:
                self._leaves[leaf, subleaf][1][register] &= ~(1 << bit)
        self._topology()

    def has(self, name: str) -> bool:
        """Whether the guest sees the feature *name* (as in /proc/cpuinfo)."""
        leaf, subleaf, register, bit = feature(name)
        entry = self._leaves.get((leaf, subleaf))
        return entry is not None and bool(entry[1][register] >> bit & 1)

    def entries(self, index: int) -> list[tuple[int, int, int, list[int]]]:
        """All leaves of vCPU *index*, whose APIC identifier is its index."""
        result = []
        for (function, subleaf), (flags, registers) in self._leaves.items():
            mine = list(registers)
            if function == 1:
                mine[EBX] = mine[EBX] & 0xFFFFFF | index << 24
            elif function in (0xB, 0x1F):
                mine[EDX] = index
            elif function == 0x8000_001E:
                mine[EAX], mine[EBX] = index, index & 0xFF
            result.append((function, subleaf, flags, mine))
        return result

    def _set(self, function: int, register: int, bits: int) -> None:
        entry = self._leaves.get((function, 0))
        if entry is None:
            raise StartError(f"KVM offers no CPUID leaf {function:#x}; this host's KVM is not usable")
        entry[1][register] |= bits

    def _topology(self) -> None:
        """One package, one core for each vCPU, no threads."""
        cpus = self._cpus
        bits = (cpus - 1).bit_length()
        amd = self._leaves.get((0, 0), (0, [0, 0, 0, 0]))[1][EBX] in (0x6874_7541, 0x6F67_7948)
        one = self._leaves[1, 0][1]
        one[EBX] = one[EBX] & ~0xFF0000 | min(1 << bits, 255) << 16
        one[EDX] = one[EDX] | HTT if cpus > 1 else one[EDX] & ~HTT
        extended = self._leaves.get((0x8000_0001, 0))
        if amd and extended:
            extended[1][ECX] = extended[1][ECX] | CMP_LEGACY if cpus > 1 else extended[1][ECX] & ~CMP_LEGACY
        for (function, _), (_, registers) in self._leaves.items():
            if function == 4 and registers[EAX] & 0x1F:
                level = registers[EAX] >> 5 & 7
                sharing = (1 << bits) - 1 if level == 3 else 0
                # Six bits for the number of cores; for more than 64 kernels use the newer leaves.
                registers[EAX] = registers[EAX] & 0x3FFF | sharing << 14 | min((1 << bits) - 1, 63) << 26
            elif function == 0x8000_0008 and amd:
                registers[ECX] = registers[ECX] & ~0xF0FF | bits << 12 | min(cpus - 1, 255)
            elif function == 0x8000_001D and registers[EAX] & 0x1F:
                sharing = cpus - 1 if registers[EAX] >> 5 & 7 == 3 else 0
                registers[EAX] = registers[EAX] & ~(0xFFF << 14) | sharing << 14
            elif function == 0x8000_001E:
                registers[EBX], registers[ECX] = 0, 0
        highest = self._leaves.get((0, 0), (0, [0]))[1][EAX]
        for function in (0xB, 0x1F):
            if not any(key[0] == function for key in self._leaves) and not (
                function == 0xB and highest >= 0xB
            ):
                continue
            for key in [key for key in self._leaves if key[0] == function]:
                del self._leaves[key]
            significant = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            self._leaves[function, 0] = (significant, [0, 1, _TYPE_SMT << 8, 0])
            self._leaves[function, 1] = (significant, [bits, cpus, _TYPE_CORE << 8 | 1, 0])
            self._leaves[function, 2] = (significant, [0, 0, 2, 0])


def feature(name: str) -> tuple[int, int, int, int]:
    """``(leaf, subleaf, register, bit)`` of the feature *name*, as in /proc/cpuinfo."""
    from pyvmm.arch.x86_64.features import FEATURES

    return FEATURES[name]
