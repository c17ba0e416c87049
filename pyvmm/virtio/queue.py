"""A split virtqueue, the device's side. Section 2.7.

Descriptors lie in a table, their heads in the available ring that the driver writes and the used ring
that the device writes. The queue belongs to one thread; only the set-up fields are others'.
"""

from __future__ import annotations

from pyvmm.memory.errors import GuestMemoryError
from pyvmm.notice import notice
from pyvmm.pykvm.barrier import IN_ORDER, full_barrier
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.errors import ChainError, QueueError
from pyvmm.virtio.features import F_EVENT_IDX, F_INDIRECT_DESC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.memory.guest import GuestMemory

# Descriptor flags (2.7.5), here at their place in the descriptor's second 64-bit word.
NEXT = 1 << 32
WRITE = 2 << 32
INDIRECT = 4 << 32

AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

DESCRIPTOR_SIZE = 16
#: The specification's bound on a queue's size.
MAX_SIZE = 32768
#: A chain may be no longer than this in bytes (2.7.4).
MAX_CHAIN_BYTES = (1 << 32) - 1


class Words:
    """Numbers in guest memory that no single view shows: a ring that crosses a seam of regions."""

    def __init__(self, memory: GuestMemory, gpa: int, width: int) -> None:
        self._gpa = gpa
        self._width = width
        self._read = {2: memory.read_u16, 4: memory.read_u32, 8: memory.read_u64}[width]
        self._write = {2: memory.write_u16, 4: memory.write_u32, 8: memory.write_u64}[width]

    def __getitem__(self, index: int) -> int:
        return self._read(self._gpa + index * self._width)

    def __setitem__(self, index: int, value: int) -> None:
        self._write(self._gpa + index * self._width, value)


class Queue:
    """Queue *index* of a device, of at most *max_size* entries."""

    __slots__ = (
        "_avail",
        "_avail_event",
        "_avail_idx",
        "_event_idx",
        "_indirect",
        "_mask",
        "_memory",
        "_next_avail",
        "_next_used",
        "_published",
        "_table",
        "_used",
        "_used16",
        "_used_event",
        "bad_chains",
        "desc",
        "device",
        "driver",
        "index",
        "max_size",
        "ready",
        "size",
    )

    def __init__(self, index: int, max_size: int) -> None:
        self.index = index
        self.max_size = max_size
        self.reset()

    def reset(self) -> None:
        """Back to the state after power-on: not ready, of the largest size."""
        self.size = self.max_size
        self.ready = False
        #: Guest-physical addresses of the descriptor table, available ring and used ring.
        self.desc = self.driver = self.device = 0
        #: Chains given back unused because they broke a rule.
        self.bad_chains = 0
        self._next_avail = self._next_used = self._published = self._avail_idx = 0
        self._memory: Any = None
        self._table: Any = None
        self._avail: Any = None
        self._used: Any = None
        self._used16: Any = None

    @property
    def in_flight(self) -> int:
        """Chains taken and not given back yet."""
        return (self._next_avail - self._next_used) & 0xFFFF

    def activate(self, memory: GuestMemory, features: int) -> None:
        """Check what the driver set up and begin, at the positions ``load`` gave or at 0.

        Raises QueueError for a size or an address the specification or the memory map forbids.
        """
        size = self.size
        if not 0 < size <= min(self.max_size, MAX_SIZE) or size & (size - 1):
            raise QueueError(
                f"queue {self.index} has size {size}; it must be a power of two up to {self.max_size}"
            )
        for name, address, align in (
            ("descriptor table", self.desc, 16),
            ("available ring", self.driver, 2),
            ("used ring", self.device, 4),
        ):
            if address % align:
                raise QueueError(
                    f"queue {self.index}: the {name} at {address:#x} must be aligned to {align} bytes"
                )
        self._mask = size - 1
        self._event_idx = bool(features & F_EVENT_IDX)
        self._indirect = bool(features & F_INDIRECT_DESC)
        # Flags and index before the ring, the other side's event index after it (2.7.6, 2.7.8).
        self._used_event = 2 + size
        self._avail_event = 2 + 4 * size
        self._memory = memory
        self._table = self._words("descriptor table", self.desc, 2 * size, 8)
        self._avail = self._words("available ring", self.driver, 3 + size, 2)
        self._used16 = self._words("used ring", self.device, 3 + 4 * size, 2, True)
        self._used = self._words("used ring", self.device, 1 + 2 * size, 4, True)
        self._avail_idx = self._next_avail

    def _words(self, what: str, gpa: int, count: int, width: int, write: bool = False) -> Any:
        size = count * width
        try:
            views = self._memory.views(gpa, size, write)
        except GuestMemoryError as error:
            raise QueueError(f"queue {self.index}: its {what} is not in memory: {error}") from None
        if len(views) == 1:
            return views[0].cast({2: "H", 4: "I", 8: "Q"}[width])
        return Words(self._memory, gpa, width)

    # What the driver made available

    def pop(self) -> Chain | None:
        """The next chain; None when there is none. Chains that break a rule are given back on the way.

        Raises QueueError when the ring itself is broken.
        """
        while True:
            at = self._next_avail
            if at == self._avail_idx:
                index = self._avail[1]
                if index == at:
                    return None
                if (index - at) & 0xFFFF > self.size:
                    raise QueueError(
                        f"queue {self.index}: the driver's index {index} is {(index - at) & 0xFFFF} ahead of "
                        f"{at}, and the queue has {self.size} entries"
                    )
                self._avail_idx = index
                if not IN_ORDER:
                    full_barrier()  # the entries are read after the index that announced them
            head = self._avail[2 + (at & self._mask)]
            if head > self._mask:
                raise QueueError(
                    f"queue {self.index}: the driver made descriptor {head} available, and the queue has "
                    f"{self.size}"
                )
            self._next_avail = (at + 1) & 0xFFFF
            try:
                return self.walk(head)
            except (ChainError, GuestMemoryError) as error:
                self.bad_chains += 1
                notice("virtio chain", f"queue {self.index}: a chain of the driver's was refused: {error}")
                self.give_back(head, 0)

    def walk(self, head: int) -> Chain:
        """The chain that begins with descriptor *head* (below the queue's size).

        Raises ChainError or GuestMemoryError for one that breaks a rule.
        """
        memory, table, mask = self._memory, self._table, self._mask
        view = memory.view
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        index, left, total = head, self.size, 0
        while True:
            # Each word is read once; the guest may change it meanwhile.
            address, word = table[2 * index], table[2 * index + 1]
            if word & INDIRECT:
                if not self._indirect or word & NEXT or table is not self._table:
                    raise ChainError(
                        "an indirect descriptor was not negotiated, has the flag NEXT besides, or lies in an "
                        "indirect table (2.7.5.3.1)"
                    )
                table, mask, left = self._indirect_table(address, word & 0xFFFF_FFFF)
                index = 0
                continue
            left -= 1
            size = word & 0xFFFF_FFFF
            write = word & WRITE != 0
            if writable and not write:
                raise ChainError("a readable descriptor follows a writable one (2.7.4.2)")
            if size:
                total += size
                try:
                    (writable if write else readable).append(view(address, size, write))
                except GuestMemoryError:
                    (writable if write else readable).extend(memory.views(address, size, write))
            if not word & NEXT:
                break
            if left <= 0:
                raise ChainError("the chain has more descriptors than its table: it loops, or is too long")
            index = word >> 48
            if index > mask:
                raise ChainError(f"a descriptor names {index} as its next, and the table has {mask + 1}")
        if total > MAX_CHAIN_BYTES:
            raise ChainError(f"the chain has {total} bytes; 2^32 - 1 is the most (2.7.4)")
        return Chain(head, readable, writable)

    def _indirect_table(self, address: int, size: int) -> tuple[Any, int, int]:
        """Words, last index and entries of an indirect table: a copy, which the guest cannot change."""
        count = size // DESCRIPTOR_SIZE
        if not count or size % DESCRIPTOR_SIZE or count > self.size:
            raise ChainError(
                f"an indirect table of {size} bytes; it has 16 a descriptor and at most the queue's size, "
                f"{self.size} (2.7.5.3.1)"
            )
        return memoryview(self._memory.read(address, size)).cast("Q"), count - 1, count

    # What goes back

    def push(self, chain: Chain, written: int) -> None:
        """Give *chain* back with *written* bytes of it written; the driver sees it after ``publish``."""
        used = self._used
        at = 1 + 2 * (self._next_used & self._mask)
        used[at] = chain.head
        used[at + 1] = written
        self._next_used = (self._next_used + 1) & 0xFFFF

    def give_back(self, head: int, written: int) -> None:
        """As ``push``, for a chain known by its *head* alone."""
        self.push(Chain(head, [], []), written)

    def publish(self) -> bool:
        """Show the driver what was pushed; True when it wants an interrupt for it (2.7.10)."""
        old, new = self._published, self._next_used
        if old == new:
            return False
        if not IN_ORDER:
            full_barrier()  # the elements are there before the index that announces them
        self._used16[1] = new
        self._published = new
        full_barrier()  # a driver that changes its mind now sees the new index, or we its new mind
        if self._event_idx:
            event: int = self._avail[self._used_event]
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._avail[0] & AVAIL_F_NO_INTERRUPT

    def disarm(self) -> None:
        """Tell the driver that it need not kick for now. It may all the same."""
        if not self._event_idx:
            self._used16[0] = USED_F_NO_NOTIFY

    def arm(self) -> bool:
        """Ask for a kick for the next chain; True when one came before the driver could know."""
        if self._event_idx:
            self._used16[self._avail_event] = self._next_avail
        else:
            self._used16[0] = 0
        full_barrier()
        return bool(self._avail[1] != self._next_avail)

    # State

    def save(self) -> dict[str, object]:
        """Set-up and positions, as plain values."""
        return {
            "version": 1,
            "size": self.size,
            "ready": self.ready,
            "desc": self.desc,
            "driver": self.driver,
            "device": self.device,
            "next_avail": self._next_avail,
            "next_used": self._next_used,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what ``save`` gave; ``activate`` follows when the device was active."""
        for name in ("size", "ready", "desc", "driver", "device"):
            setattr(self, name, state[name])
        self._next_avail = self._avail_idx = state["next_avail"]
        self._next_used = self._published = state["next_used"]
