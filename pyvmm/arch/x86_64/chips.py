"""The chips that KVM emulates: interrupt controllers and the timer; the gap in RAM."""

from __future__ import annotations

from pyvmm.arch.x86_64 import layout
from pyvmm.board.space import PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config
    from pyvmm.pykvm import Kvm, Vm

#: The space whose writes KVM may queue (coalesced I/O), and the capability needed for it.
COALESCED_SPACE = PORT
COALESCED_NEEDS = "COALESCED_PIO"
#: One-byte ports whose writes KVM may queue: they have no immediate effect for the guest.
COALESCED_PORTS = (layout.COM1, layout.COM2)
#: Reads of the line status register, as the eight bytes of the run page have them (in, one byte, port, once).
#: A console's driver makes one after each character; queued characters may wait until the end of the line.
POLLS = frozenset(1 << 32 | base + 5 << 16 | 1 << 8 for base in COALESCED_PORTS)
#: A guest's uncached read of memory sees what this process has written to it.
READS_SNOOP = True
#: Bytes of RAM for which KVM's lists need no more than 160 MiB.
_LITTLE_RAM = 64 << 30


def ram_gap(config: Config) -> tuple[int, int]:
    """The guest-physical range ``(first, end)`` without RAM, for devices."""
    return layout.GAP_START, layout.GAP_END


def check_ram(size: int) -> None:
    """Raise HostMemoryError where KVM's lists for *size* bytes of RAM need more memory than the host has."""
    if size > _LITTLE_RAM:
        from pyvmm.arch.x86_64.host import check_ram

        check_ram(size)


def machine_type(kvm: Kvm, end: int) -> int:
    """The machine type for KVM_CREATE_VM: 0, the only one, wherever memory ends (*end*, guest-physical)."""
    return 0


def create(vm: Vm, config: Config) -> None:
    """Make PIC, I/O APIC and PIT, before any vCPU; with the pages VT-x needs for real mode."""
    vm.set_identity_map_addr(layout.IDENTITY_MAP)
    vm.set_tss_addr(layout.TSS)
    vm.create_irqchip()
    vm.create_pit2(speaker_dummy=True)
