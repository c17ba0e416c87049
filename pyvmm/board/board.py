"""The board: which component has which addresses, ports and interrupts, and that no two have the same.

KVM refuses overlapping memslots and equal ioeventfds, with a bare EEXIST. It accepts an
ioeventfd inside a memslot, which then never rings, two eventfds on one interrupt line,
and anything over its own local APIC, I/O APIC and TSS pages. Here all are refused, with
the names of both owners (Documentation/virt/kvm/api.rst: KVM_SET_USER_MEMORY_REGION,
KVM_IOEVENTFD, KVM_IRQFD; collisions: ioeventfd_check_collision in virt/kvm/eventfd.c).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from pyvmm.board.space import (
    DEVICE,
    DOORBELL,
    IRQ,
    KIND_NAMES,
    MMIO,
    PORT,
    RAM,
    SPACE_LIMITS,
    SPACE_NAMES,
    Window,
    format_range,
)
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: The widths an ioeventfd can have (KVM_IOEVENTFD).
DOORBELL_SIZES = (1, 2, 4, 8)


class PlacementError(ConfigError):
    """A component cannot have the place, or the name, it asks for."""


class Board:
    """The windows taken in each space, and by whom.

    *arenas* are the half-open ranges [start, end) that ``allocate`` may use in a space: ``{MMIO:
    [(0xd0000000, 0xd1000000)], IRQ: [(5, 8), (9, 24)]}``. ``place`` is not bound by them. Used while a
    machine is built, by one thread. Raises PlacementError for an arena outside its space.
    """

    def __init__(self, arenas: Mapping[int, Sequence[tuple[int, int]]] | None = None) -> None:
        self._arenas = dict(arenas or {})
        for space, ranges in self._arenas.items():
            for start, end in ranges:
                if not 0 <= start < end <= SPACE_LIMITS[space]:
                    raise PlacementError(
                        f"the {SPACE_NAMES[space]} arena from {start:#x} to {end:#x} is no range inside the "
                        "space; give the lower end first"
                    )
        # Sorted by base. Windows of MMIO and PORT are disjoint except for doorbells, which lie inside other
        # windows; those of IRQ may be equal when shared.
        self._solid: dict[int, list[Window]] = {MMIO: [], PORT: []}
        self._doorbells: dict[int, list[Window]] = {MMIO: [], PORT: []}
        self._lines: list[Window] = []
        self._names: set[str] = set()

    def register(self, name: str) -> str:
        """Take *name* for one component and return it.

        An owner may have many windows, so ``place`` cannot tell two components of one
        name from one with two windows. Raises PlacementError when the name is taken.
        """
        if name in self._names:
            raise PlacementError(f"two components are called {name!r}; give one of them another name")
        self._names.add(name)
        return name

    def place(
        self,
        space: int,
        base: int,
        size: int,
        owner: str,
        kind: int = DEVICE,
        *,
        shared: bool = False,
        datamatch: int | None = None,
    ) -> Window:
        """Take *size* addresses, ports or interrupts of *space* from *base* on.

        *kind* is RAM, ROM, DEVICE, RESERVED or DOORBELL.

        An interrupt can have several owners if all say *shared*. A DOORBELL lies in its owner's device window
        or outside all windows, and has 1, 2, 4 or 8 bytes; two at one address need different *datamatch*
        values. Raises PlacementError, naming both owners of an overlap.
        """
        window = Window(space, base, size, owner, kind, shared, datamatch)
        check_window(window)
        other = next(self._conflicts(window), None)
        if other is not None:
            raise PlacementError(conflict_text(window, other))
        self._insert(window)
        return window

    def allocate(
        self, space: int, size: int, owner: str, align: int = 1, kind: int = DEVICE, *, shared: bool = False
    ) -> Window:
        """Take the first *size* free addresses, ports or interrupts, at a multiple of *align*, in the arenas.

        *space* is MMIO, PORT or IRQ; *kind* is RAM, ROM, DEVICE, RESERVED or DOORBELL.

        When all interrupts are taken, a *shared* one is that with the fewest owners, of those whose owners
        all share. Raises PlacementError when the arenas are full.
        """
        if align < 1 or size < 1:
            raise PlacementError(
                f"{owner!r} asks for {size} numbers aligned to {align}; both must be above 0"
            )
        for start, end in self._arenas.get(space, ()):
            base = -(-start // align) * align
            while base + size <= end:
                window = Window(space, base, size, owner, kind, shared)
                blocker = next(self._overlaps(window), None)
                if blocker is None:
                    check_window(window)
                    self._insert(window)
                    return window
                base = -(-blocker.end // align) * align
        line = self._least_shared(size) if space == IRQ and shared else None
        if line is None:
            raise PlacementError(self._full_text(space, size, owner))
        return self.place(IRQ, line, size, owner, kind, shared=True)

    def release(self, owner: str) -> None:
        """Free every window of *owner*, and its name. Idempotent."""
        self._names.discard(owner)
        for row in (*self._solid.values(), *self._doorbells.values(), self._lines):
            row[:] = [window for window in row if window.owner != owner]

    def windows(self, space: int) -> list[Window]:
        """Every window of *space*, by address; a doorbell comes after the window it lies in."""
        if space == IRQ:
            return list(self._lines)
        both = self._solid[space] + self._doorbells[space]
        return sorted(both, key=lambda window: (window.base, window.kind == DOORBELL))

    def describe(self) -> str:
        """The map as text, one line for each window: space, range, kind, owner."""
        rows = [
            f"{SPACE_NAMES[space]:5}{format_range(space, window.base, window.size):36}"
            f"{KIND_NAMES[window.kind]:9} {window.owner}"
            for space in (MMIO, PORT, IRQ)
            for window in self.windows(space)
        ]
        return "\n".join(rows)

    def _insert(self, window: Window) -> None:
        if window.space == IRQ:
            row = self._lines
        elif window.kind == DOORBELL:
            row = self._doorbells[window.space]
        else:
            row = self._solid[window.space]
        row.insert(bisect_right(row, window.base, key=lambda other: other.base), window)

    def _overlaps(self, window: Window) -> Iterator[Window]:
        """Every placed window that overlaps *window*, whether it may or not."""
        if window.space == IRQ:
            yield from (other for other in self._lines if other.base < window.end and window.base < other.end)
            return
        solid = self._solid[window.space]
        index = bisect_right(solid, window.base, key=lambda other: other.base)
        if index and solid[index - 1].end > window.base:
            yield solid[index - 1]
        while index < len(solid) and solid[index].base < window.end:
            yield solid[index]
            index += 1
        doorbells = self._doorbells[window.space]
        index = bisect_left(doorbells, window.base - max(DOORBELL_SIZES) + 1, key=lambda other: other.base)
        while index < len(doorbells) and doorbells[index].base < window.end:
            if doorbells[index].end > window.base:
                yield doorbells[index]
            index += 1

    def _conflicts(self, window: Window) -> Iterator[Window]:
        return (other for other in self._overlaps(window) if not may_overlap(window, other))

    def _least_shared(self, size: int) -> int | None:
        best: tuple[int, int] | None = None
        for start, end in self._arenas.get(IRQ, ()):
            for line in range(start, end - size + 1):
                others = list(self._overlaps(Window(IRQ, line, size, "", DEVICE, True)))
                count = len({other.owner for other in others})
                if all(other.shared for other in others) and (best is None or count < best[0]):
                    best = count, line
        return best[1] if best else None

    def _full_text(self, space: int, size: int, owner: str) -> str:
        name = SPACE_NAMES[space]
        ranges = [format_range(space, start, end - start) for start, end in self._arenas.get(space, ())]
        if not ranges:
            return (
                f"{owner!r} asks for any place in the {name} space, which has no arena; give it a fixed place"
            )
        return (
            f"no room for {size:#x} in the {name} arena {', '.join(ranges)}, asked for by {owner!r}; "
            "remove a device, or give one a fixed place elsewhere"
        )


def check_window(window: Window) -> None:
    """Raise PlacementError unless *window* alone is well formed."""
    limit = SPACE_LIMITS[window.space]
    if window.base < 0 or window.size < 1 or window.end > limit:
        raise PlacementError(
            f"{window.owner!r} asks for {window.size:#x} from {window.base:#x} on; the "
            f"{SPACE_NAMES[window.space]} space goes from 0 to {limit - 1:#x}"
        )
    if not window.owner:
        raise PlacementError(f"the window at {window} has no owner; name it")
    if window.shared and window.space != IRQ:
        raise PlacementError(f"{window} cannot be shared; only interrupt lines can")
    if window.kind != DOORBELL or window.space == IRQ:
        if window.datamatch is not None:
            raise PlacementError(f"{window} has a datamatch; only a doorbell in mmio or ports has one")
    elif window.size not in DOORBELL_SIZES:
        raise PlacementError(f"doorbell {window} has {window.size} bytes; KVM takes 1, 2, 4 or 8")
    elif window.datamatch is not None and not 0 <= window.datamatch < 1 << 8 * window.size:
        raise PlacementError(
            f"doorbell {window} rings at {window.datamatch:#x}, which {window.size} bytes cannot hold"
        )


def may_overlap(one: Window, other: Window) -> bool:
    """Whether two windows that overlap are allowed to."""
    if one.space == IRQ:
        # An eventfd may signal its owner's own interrupt; all other sharing must be declared by both.
        own = one.owner == other.owner and (one.kind == DOORBELL) != (other.kind == DOORBELL)
        return own or (one.shared and other.shared)
    if one.kind == DOORBELL and other.kind == DOORBELL:
        if one.base == other.base and one.size == other.size:
            matches = (one.datamatch, other.datamatch)
            return None not in matches and matches[0] != matches[1]
        return one.owner == other.owner  # KVM distinguishes them by address and width
    if DOORBELL not in (one.kind, other.kind):
        return False
    solid = other if one.kind == DOORBELL else one
    return solid.kind == DEVICE and one.owner == other.owner


def conflict_text(one: Window, other: Window) -> str:
    """The sentence that refuses *one* because of *other*."""
    if one.space == IRQ:
        return f"{one} is also {other}; declare both shared, or move one of them"
    kinds = (one.kind, other.kind)
    if kinds == (DOORBELL, DOORBELL) and one.base == other.base:
        return f"doorbells {one} and {other} ring at the same write; give them different addresses or values"
    if DOORBELL in kinds and RAM in kinds:
        bell, ram = (one, other) if one.kind == DOORBELL else (other, one)
        return f"doorbell {bell} lies in RAM {ram}, where no write rings it; move one of them"
    return f"{one} overlaps {other}; move one of them"
