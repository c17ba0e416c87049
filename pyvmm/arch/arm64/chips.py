"""What is set up first: where RAM lies, and the interrupt controller that KVM emulates."""

from __future__ import annotations

from pyvmm.arch.arm64 import layout
from pyvmm.board.space import MMIO
from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.arch.arm64.gic import Gic
    from pyvmm.config import Config
    from pyvmm.pykvm import Kvm, Vm

#: The space whose writes KVM may queue (coalesced I/O), the capability needed for it; there are no ports.
COALESCED_SPACE = MMIO
COALESCED_NEEDS = "COALESCED_MMIO"
COALESCED_PORTS = ()
#: A guest's uncached read may not see what this process has just written, unless the processor has S2FWB.
READS_SNOOP = False
#: Address bits of a VM by default.
_DEFAULT_ADDRESS_BITS = 40
_MAX_ADDRESS_BITS = 48


def ram_gap(config: Config) -> tuple[int, int]:
    """The guest-physical range ``(first, end)`` without RAM: all below its base."""
    return 0, layout.RAM if config.ram_base is None else config.ram_base


def check_ram(size: int) -> None:
    """KVM keeps nothing for a page of the RAM, whose *size* is in bytes, that the guest has not touched."""


def machine_type(kvm: Kvm, end: int) -> int:
    """The machine type for KVM_CREATE_VM and memory below *end*: the address bits, 0 for the default of 40.

    Raises StartError when this host has too few.
    """
    limit = kvm.check_extension("ARM_VM_IPA_SIZE") or _DEFAULT_ADDRESS_BITS
    if end > 1 << limit:
        raise StartError(
            f"this host's KVM gives {limit} address bits, too few for memory up to {end:#x}; ask for less"
        )
    if limit >= _DEFAULT_ADDRESS_BITS and end <= 1 << _DEFAULT_ADDRESS_BITS:
        return 0
    return min(limit, _MAX_ADDRESS_BITS)


def create(vm: Vm, config: Config) -> Gic:
    """Make the interrupt controller, before any vCPU.

    Raises ConfigError for more vCPUs than a GICv2 serves, StartError where KVM does not offer the version.
    """
    from pyvmm.arch.arm64.gic import Gic

    return Gic(vm, config.gic or "auto", config.cpus)
