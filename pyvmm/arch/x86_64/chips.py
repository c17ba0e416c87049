"""The chips KVM emulates in the kernel, interrupt controllers and the timer; the gap in RAM."""

from __future__ import annotations

from pyvmm.arch.x86_64 import layout
from pyvmm.board.space import PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config
    from pyvmm.pykvm import Kvm, Vm

#: The space whose writes KVM may queue, and the capability that takes.
COALESCED_SPACE = PORT
COALESCED_NEEDS = "COALESCED_PIO"
#: One-byte ports whose writes KVM may queue: nothing follows from them at once.
COALESCED_PORTS = (layout.COM1, layout.COM2)
#: Reads of the line status register, as the eight bytes of the run page (in, one byte, port, once).
#: A console's driver makes one after each character; what is queued may wait for the line's end.
POLLS = frozenset(1 << 32 | base + 5 << 16 | 1 << 8 for base in COALESCED_PORTS)
#: A guest's uncached read of memory sees what this process has written to it.
READS_SNOOP = True


def ram_gap(config: Config) -> tuple[int, int]:
    """The range RAM leaves to devices."""
    return layout.GAP_START, layout.GAP_END


def machine_type(kvm: Kvm, end: int) -> int:
    """What KVM_CREATE_VM is given for guest memory up to *end*."""
    return 0


def create(vm: Vm, config: Config) -> None:
    """Make PIC, I/O APIC and PIT, before any vCPU; with the pages VT-x needs for real mode."""
    vm.set_identity_map_addr(layout.IDENTITY_MAP)
    vm.set_tss_addr(layout.TSS)
    vm.create_irqchip()
    vm.create_pit2(speaker_dummy=True)
