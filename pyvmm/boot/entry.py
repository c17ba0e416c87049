"""Where and in which mode CPU 0 starts: the result of a loader."""

from __future__ import annotations

#: The state after reset (Intel SDM vol. 3, 10.1.4): CS base 0xffff0000, IP 0xfff0.
REAL = "real"
#: 32-bit protected mode, flat segments, no paging.
PROTECTED = "protected"
#: 64-bit mode, flat segments, paging on, page tables at ``BootEntry.page_tables``.
LONG = "long"
#: arm64: EL1, MMU off, interrupts masked.
EL1 = "el1"


class BootEntry:
    """The first state of CPU 0. Everything named here is already in guest memory.

    *mode*: REAL, PROTECTED, LONG or EL1. *ip*: guest address of the first instruction, None in
    REAL mode for the reset vector. *registers*: general registers by their names in
    ``struct kvm_regs`` (arm64: x0 to x30); those not named are zero. *gdt*: guest-physical base of the
    descriptor table, *page_tables*: value of CR3, *code_selector*: the code segment's; those of the data
    segment and the TSS are the next two. All 0 where the mode has none.
    """

    __slots__ = ("code_selector", "gdt", "ip", "mode", "page_tables", "registers")

    def __init__(
        self,
        mode: str,
        ip: int | None = None,
        registers: dict[str, int] | None = None,
        gdt: int = 0,
        page_tables: int = 0,
        code_selector: int = 0,
    ) -> None:
        self.mode = mode
        self.ip = ip
        self.registers = registers if registers is not None else {}
        self.gdt = gdt
        self.page_tables = page_tables
        self.code_selector = code_selector

    def __repr__(self) -> str:
        where = "reset vector" if self.ip is None else hex(self.ip)
        return f"BootEntry({self.mode}, {where}, {self.registers})"
