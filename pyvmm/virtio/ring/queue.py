"""A split virtqueue, the device's side. Section 2.7.

Descriptors lie in a table, their heads in the available ring that the driver writes and the used ring
that the device writes. One thread at a time uses the queue; only the set-up fields are others'.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate
from struct import Struct

from pyvmm.host.barrier import IN_ORDER, full_barrier
from pyvmm.host.notice import notice
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.virtio.errors import ChainError, QueueError, StateError, check_numbers, check_version
from pyvmm.virtio.features import F_EVENT_IDX, F_INDIRECT_DESC
from pyvmm.virtio.ring.chain import MAX_CHAIN_BYTES, Chain
from pyvmm.virtio.ring.guest_array import Words, seam_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.memory.guest import GuestMemory

# Descriptor flags (2.7.5).
NEXT = 1
WRITE = 2
INDIRECT = 4

AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

_FLAGS = NEXT | WRITE | INDIRECT

#: A sweep over a table pays with more links than the one; readv(2) takes no more than the other.
_LONG, _LONGEST = 8, 1024

#: Entries of the available ring that ``pop_room`` reads at once.
_AT_ONCE = 32

DESCRIPTOR_SIZE = 16  # a shift by 4 below
#: The specification's bound on a queue's size.
MAX_SIZE = 32768
VERSION = 1

# struct virtq_desc (2.7.5): le64 addr; le32 len; le16 flags; le16 next. In native order, which
# both hosts have, each field is one load.
_descriptor = Struct("QIHH").unpack_from


class Queue:
    """Queue *index* of a device, of at most *max_size* entries.

    One that the driver did not make ready never has a chain, and takes whatever is given back.
    """

    __slots__ = (
        "_avail",
        "_avail_event",
        "_avail_idx",
        "_event_idx",
        "_fetch",
        "_indirect",
        "_main",
        "_mask",
        "_memory",
        "_next_avail",
        "_next_used",
        "_patience",
        "_published",
        "_sweep",
        "_table",
        "_used",
        "_used16",
        "_used_event",
        "bad_chains",
        "desc",
        "device",
        "driver",
        "index",
        "long_chains",
        "max_size",
        "ready",
        "size",
        "tired",
    )

    def __init__(self, index: int, max_size: int) -> None:
        self.index = index
        self.max_size = max_size
        #: Whether ``pop`` may give a LongChain, which costs less where a request has many buffers.
        self.long_chains = False
        self.reset()

    def reset(self) -> None:
        """Back to the state after power-on: not ready, of the largest size."""
        self.size = self.max_size
        self.ready = False
        #: Guest-physical addresses of the descriptor table, available ring and used ring.
        self.desc = self.driver = self.device = 0
        #: Chains given back unused because they broke a rule.
        self.bad_chains = 0
        #: True when ``pop`` gave up on a driver whose chains are all bad: the queue is to be run again later.
        self.tired = False
        self._next_avail = self._next_used = self._published = self._avail_idx = 0
        # Rings nobody fills or reads, until ``activate``.
        self._avail: Any = (AVAIL_F_NO_INTERRUPT, 0)
        self._used: Any = [0] * 3
        self._used16: Any = [0] * 2
        self._event_idx = False
        self._mask = 0
        # Guest memory may be another's meanwhile: hold none of it.
        self._memory: Any = None
        self._table: Any = None
        self._main: Any = (0, 0, None)
        self._sweep: Callable[[int, bytes], Chain | None] | None = None

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
        # Nearly every buffer lies in the largest region: its base, end and bytes.
        ram = max(memory.regions, key=lambda region: 0 if region.readonly else region.size)
        self._main = (0, 0, None) if ram.readonly else (ram.gpa, ram.end, ram.buffer)
        self._sweep = None
        if self.long_chains and not ram.readonly:
            from pyvmm.virtio.ring.indirect import Sweeper

            self._sweep = Sweeper(ram.buffer, ram.gpa, ram.address).chain
        table = self._words("descriptor table", self.desc, 2 * size, 8)
        avail = self._words("available ring", self.driver, 3 + size, 2)
        used16 = self._words("used ring", self.device, 3 + 4 * size, 2, True)
        self._used = self._words("used ring", self.device, 1 + 2 * size, 4, True)
        self._used16, self._avail, self._table = used16, avail, table
        self._fetch: Any = seam_descriptor if isinstance(table, Words) else _descriptor
        self._avail_idx = self._next_avail
        self._patience = size
        self.tired = False

    def _words(self, what: str, gpa: int, count: int, width: int, write: bool = False) -> Any:
        size = count * width
        try:
            views = self._memory.views(gpa, size, write)
        except GuestMemoryError as error:
            raise QueueError(f"queue {self.index}: its {what} is not in memory: {error}") from None
        if len(views) == 1:
            return views[0] if width == 8 else views[0].cast("H" if width == 2 else "I")
        return Words(self._memory, gpa, width)

    # What the driver made available

    def pop(self) -> Chain | None:
        """The next chain; None when there is none. Chains that break a rule are given back on the way.

        After as many bad ones as the queue has entries it is ``tired`` and has none for now.
        Raises QueueError when the ring itself is broken.
        """
        while True:
            at = self._next_avail
            if at == self._avail_idx and not self._more(at):
                return None
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
            if self._weary():
                return None

    def _more(self, at: int) -> bool:
        """Whether the driver made more available than the entry before *at*."""
        index = self._avail[1]
        if index == at:
            return False
        free = self.size - self.in_flight
        if (index - at) & 0xFFFF > free:
            raise QueueError(
                f"queue {self.index}: the driver's index {index} is {(index - at) & 0xFFFF} ahead of {at}, "
                f"and of the queue's {self.size} entries {free} are free"
            )
        self._avail_idx = index
        if not IN_ORDER:
            full_barrier()  # the entries are read after the index that announced them
        return True

    def _weary(self) -> bool:
        """One more chain was bad; whether that is enough for now."""
        self._patience -= 1
        if self._patience:
            return False
        # The driver may add bad ones as fast as they are refused; others want to be served too.
        self._patience = self.size
        self.tired = True
        return True

    def pop_room(self, want: int, heads: list[int], sizes: list[int], views: list[memoryview]) -> int:
        """Take chains of nothing but room until they have *want* bytes; returns the bytes got.

        Of each chain the head goes to *heads*, its bytes to *sizes*, its parts to *views*: one view where
        buffers lie one behind the other, also of several chains. A chain of one buffer, as receive queues
        have, costs a third of ``pop``. Raises QueueError as ``pop`` does.
        """
        got, mask, fetch, table = 0, self._mask, self._fetch, self._table
        base, end, ram = self._main
        while got < want:
            at = self._next_avail
            if at == self._avail_idx and not self._more(at):
                break
            start = at & mask
            count = min((self._avail_idx - at) & 0xFFFF, mask + 1 - start, _AT_ONCE)
            ring = list(self._avail[2 + start : 2 + start + count])
            before = len(sizes)
            first = stop = 0  # buffers one behind the other, of which one view is made
            for head in ring:
                if head > mask:
                    break
                address, size, flags, _ = fetch(table, head << 4)
                if flags & _FLAGS != WRITE or not size or not base <= address <= end - size:
                    break
                if address != stop:
                    if stop:
                        views.append(ram[first - base : stop - base])
                    first = stop = address
                stop += size
                sizes.append(size)
                got += size
                if got >= want:
                    break
            if stop:
                views.append(ram[first - base : stop - base])
            taken = len(sizes) - before
            heads += ring[:taken]
            self._next_avail = (at + taken) & 0xFFFF
            if got >= want or taken == count:
                continue
            chain = self.pop()  # of several buffers, across a seam, or bad
            if chain is None:
                break
            if chain.readable or not chain.writable:
                self.bad_chains += 1
                notice("virtio room", f"queue {self.index}: a chain that is not room alone was refused")
                self.give_back(chain.head, 0)
                if self._weary():
                    break
                continue
            views += chain.writable
            heads.append(chain.head)
            sizes.append(chain.writable_size)
            got += sizes[-1]
        return got

    def walk(self, head: int) -> Chain:
        """The chain that begins with descriptor *head* (below the queue's size).

        Raises ChainError or GuestMemoryError for one that breaks a rule.
        """
        fetch, table, mask = self._fetch, self._table, self._mask
        base, end, ram = self._main
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        parts = readable
        index, left, total = head, mask, 0
        while True:
            # Read once; the guest may change it meanwhile.
            address, size, flags, following = fetch(table, index << 4)
            if flags & INDIRECT:
                if flags & NEXT or not self._indirect or table is not self._table:
                    raise ChainError(
                        "an indirect descriptor was not negotiated, has the flag NEXT besides, or lies in an "
                        "indirect table (2.7.5.3.1)"
                    )
                left = mask = (size >> 4) - 1
                # Drivers keep to what the device tells of itself, also on a queue made smaller: Linux's block
                # driver sends seg_max segments, and what is refused here it takes for done.
                if size & 15 or not 0 <= mask < self.max_size:
                    raise ChainError(
                        f"an indirect table of {size} bytes; it has 16 a descriptor and at most "
                        f"{self.max_size} of them (2.7.5.3.1)"
                    )
                stop = address + size
                if base <= address and stop <= end:
                    table = ram[address - base : stop - base]
                    sweep = self._sweep
                    if sweep is not None and _LONG < left <= _LONGEST and not readable and not writable:
                        table = table.tobytes()
                        if (chain := sweep(head, table)) is not None:
                            return chain
                else:
                    table = self._memory.read(address, size)
                fetch, index = _descriptor, 0
                continue
            if flags & WRITE:
                parts = writable
            elif parts is writable:
                raise ChainError("a readable descriptor follows a writable one (2.7.4.2)")
            if size:
                total += size
                stop = address + size
                if base <= address and stop <= end:
                    parts.append(ram[address - base : stop - base])
                else:
                    parts.extend(self._memory.views(address, size, flags & WRITE != 0))
            if not flags & NEXT:
                break
            if not left:
                raise ChainError("the chain has more descriptors than its table: it loops, or is too long")
            left -= 1
            if following > mask:
                raise ChainError(f"a descriptor names {following} as its next, and the table has {mask + 1}")
            index = following
        if total > MAX_CHAIN_BYTES:
            raise ChainError(f"the chain has {total} bytes; 2^32 - 1 is the most (2.7.4)")
        return Chain(head, readable, writable)

    # What goes back

    def push(self, chain: Chain, written: int) -> None:
        """Give *chain* back with *written* bytes of it written; the driver sees it after ``publish``."""
        used, next_used = self._used, self._next_used
        at = 1 + 2 * (next_used & self._mask)
        used[at] = chain.head
        used[at + 1] = written
        self._next_used = (next_used + 1) & 0xFFFF

    def give_back(self, head: int, written: int) -> None:
        """As ``push``, for a chain known by its *head* alone."""
        used, next_used = self._used, self._next_used
        at = 1 + 2 * (next_used & self._mask)
        used[at] = head
        used[at + 1] = written
        self._next_used = (next_used + 1) & 0xFFFF

    def give_back_filled(self, heads: list[int], sizes: list[int], written: int) -> int:
        """Give back the chains that *written* bytes fill, one after the other; returns how many those are.

        *heads* and *sizes* are what ``pop_room`` gave, and hold that much.
        """
        ends = list(accumulate(sizes))
        count = bisect_left(ends, written) + 1
        elements = [0] * (2 * count)
        elements[::2] = heads[:count]
        elements[1::2] = sizes[:count]
        elements[-1] += written - ends[count - 1]
        at = self._next_used & self._mask
        self._next_used = (self._next_used + count) & 0xFFFF
        fit = 2 * (self._mask + 1 - at)
        for start, part in ((1 + 2 * at, elements[:fit]), (1, elements[fit:])):
            if part:
                self._used[start : start + len(part)] = array("I", part)
        return count

    def expose(self) -> None:
        """Show the driver what was pushed; a later ``publish`` asks whether it wants an interrupt for it.

        For a driver that polls: by then it has seen everything, and wants none.
        """
        if not IN_ORDER:
            full_barrier()
        self._used16[1] = self._next_used

    @property
    def overdue(self) -> bool:
        """Whether the driver wants an interrupt for what was exposed, as far as it has seen it by now."""
        old, new = self._published, self._next_used
        if not self._event_idx:
            return old != new and not self._avail[0] & AVAIL_F_NO_INTERRUPT
        event: int = self._avail[self._used_event]
        return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF

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
        """Ask for a kick for the next chain; True when one came before the driver could know.

        False for a ``tired`` queue: what it has waits until the queue is run again.
        """
        if self._event_idx:
            self._used16[self._avail_event] = self._next_avail
        else:
            self._used16[0] = 0
        full_barrier()
        return bool(self._avail[1] != self._next_avail) and not self.tired

    # State

    @property
    def position(self) -> int:
        """The place in the available ring, modulo 2^16, of the first chain that was not given back yet.

        Chains in flight are taken again from there; devices that keep any give them back in order.
        """
        return self._next_used

    def begin_at(self, position: int) -> None:
        """Go on at *position* of the available ring; before ``activate``."""
        self._next_avail = self._avail_idx = self._next_used = self._published = position

    def save(self) -> dict[str, object]:
        """Set-up and positions, as plain values."""
        return {"version": VERSION, **{name: getattr(self, name) for name in _SAVED}}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what ``save`` gave; ``activate`` follows when the device was active.

        Raises StateError for another version, or for what no driver can have set up.
        """
        check_version(f"queue {self.index}", state, VERSION)
        check_numbers(f"queue {self.index}", state, _SAVED)
        flight = (state["_next_avail"] - state["_next_used"]) & 0xFFFF
        if state["ready"] and flight > min(state["size"], self.max_size):
            raise StateError(
                f"queue {self.index}: the saved state has {flight} chains in flight, and the queue has "
                f"{self.max_size} entries; it is another device's"
            )
        self.reset()
        for name in _SAVED:
            setattr(self, name, state[name])
        self.ready = bool(state["ready"])
        if not self.ready:
            self._next_avail = self._next_used = 0
        self._avail_idx, self._published = self._next_avail, self._next_used


# What is saved, and the number each lies below.
_SAVED = {
    "size": 1 << 32,
    "ready": 2,
    "desc": 1 << 64,
    "driver": 1 << 64,
    "device": 1 << 64,
    "_next_avail": 1 << 16,
    "_next_used": 1 << 16,
}
