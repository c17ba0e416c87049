"""Address spaces, what can lie in them, and a window: one component's place in one space."""

from __future__ import annotations

# Spaces.
MMIO = 0  #: guest-physical addresses
PORT = 1  #: x86 I/O ports
IRQ = 2  #: interrupt lines (GSIs)

SPACE_NAMES = ("mmio", "port", "irq")
#: First number behind each space: 52 address bits, 16 port bits, KVM_MAX_IRQ_ROUTES.
SPACE_LIMITS = (1 << 52, 1 << 16, 4096)

# Kinds.
RAM = 0
ROM = 1
DEVICE = 2
RESERVED = 3  #: taken by the platform: interrupt controllers, TSS pages, boot tables
DOORBELL = 4  #: an eventfd KVM signals in the device's place (ioeventfd) or listens to (irqfd)

KIND_NAMES = ("ram", "rom", "device", "reserved", "doorbell")


class Window:
    """*size* addresses, ports or interrupts of *space* from *base* on, which belong to *owner*.

    *kind* is RAM, ROM, DEVICE, RESERVED or DOORBELL. ``end`` is the first one behind it. *shared* is for
    interrupts: edge triggered, others may signal it too. *datamatch* is for doorbells: only a write of this
    value signals the eventfd, with None any value does.
    """

    __slots__ = ("base", "datamatch", "end", "kind", "owner", "shared", "size", "space")

    def __init__(
        self,
        space: int,
        base: int,
        size: int,
        owner: str,
        kind: int,
        shared: bool = False,
        datamatch: int | None = None,
    ) -> None:
        self.space = space
        self.base = base
        self.size = size
        self.owner = owner
        self.kind = kind
        self.shared = shared
        self.datamatch = datamatch
        self.end = base + size

    def __repr__(self) -> str:
        return f"<{KIND_NAMES[self.kind]} {self}>"

    def __str__(self) -> str:
        return f"{SPACE_NAMES[self.space]} {format_range(self.space, self.base, self.size)} of {self.owner!r}"


def format_range(space: int, base: int, size: int) -> str:
    """The *size* addresses, ports or interrupts of *space* from *base* on, as text; interrupts in decimal."""
    digits = "d" if space == IRQ else "#x"
    first = format(base, digits)
    return first if size == 1 else f"{first}-{format(base + size - 1, digits)}"
