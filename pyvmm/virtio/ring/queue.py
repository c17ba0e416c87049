"""A split virtqueue, the device's side. Section 2.7.

Descriptors lie in a table, their heads in the available ring that the driver writes and the used ring
that the device writes. One thread at a time uses the queue; only the set-up fields are others'.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate

from pyvmm.host.barrier import IN_ORDER, full_barrier
from pyvmm.host.notice import notice
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.virtio.errors import ChainError, QueueError
from pyvmm.virtio.features import F_EVENT_IDX, F_INDIRECT_DESC
from pyvmm.virtio.ring import descriptor
from pyvmm.virtio.ring.chain import MAX_CHAIN_BYTES, Chain
from pyvmm.virtio.ring.descriptor import INDIRECT, NEXT, WRITE
from pyvmm.virtio.ring.guest_array import GuestArray, unpack_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.memory.guest import GuestMemory

AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

_FLAGS = NEXT | WRITE | INDIRECT

# Reading an indirect table in one piece pays with more links than the first; readv(2) takes no more buffers
# than the second.
_MIN_LINKS, _MAX_LINKS = 8, 1024

#: Entries of the available ring that ``pop_writable`` reads at once.
_AT_ONCE = 32

#: The specification's bound on a queue's size (2.7).
MAX_SIZE = 32768


def _nothing(index: int) -> None:
    """Nobody runs a queue without a runtime again."""


class Queue:
    """Queue *index* of a device, of at most *max_size* entries (a power of two, MAX_SIZE at most).

    A queue that the driver did not make ready has no chains, and what is pushed to it goes nowhere.

    :param indirect_vectors: whether ``pop`` may return an IndirectChain, which costs less where a request
        has many buffers in an indirect table
    :param run_again: called with the queue's number when it becomes ``exhausted``: has it run in a later turn
        of the loop. Any thread
    """

    __slots__ = (
        "_avail",
        "_avail_event",
        "_avail_idx",
        "_budget",
        "_event_idx",
        "_fetch",
        "_indirect",
        "_main",
        "_mask",
        "_memory",
        "_next_avail",
        "_next_used",
        "_published",
        "_run_again",
        "_table",
        "_tables",
        "_used",
        "_used16",
        "_used_event",
        "_visible",
        "bad_chains",
        "desc",
        "device",
        "driver",
        "exhausted",
        "index",
        "indirect_vectors",
        "max_size",
        "ready",
        "size",
    )

    def __init__(
        self,
        index: int,
        max_size: int,
        indirect_vectors: bool = False,
        run_again: Callable[[int], object] = _nothing,
    ) -> None:
        self.index = index
        self.max_size = max_size
        self.indirect_vectors = indirect_vectors
        self._run_again = run_again
        self.reset()

    def reset(self) -> None:
        """Back to the state after power-on: not ready, of the largest size."""
        self.size = self.max_size
        self.ready = False
        #: Guest-physical addresses of the descriptor table, available ring and used ring.
        self.desc = self.driver = self.device = 0
        #: Chains completed with length 0 because they broke a rule, the queue's or the device's.
        self.bad_chains = 0
        #: True when as many chains were refused as the queue has entries: ``pop`` returns None then although
        #: the driver has more, until the queue is run in a later turn of the loop.
        self.exhausted = False
        self._next_avail = self._next_used = self._published = self._avail_idx = 0
        # The index in the used ring: how far the driver can know of completed chains.
        self._visible = 0
        # Rings nobody fills or reads, until ``activate``.
        self._avail: Any = (AVAIL_F_NO_INTERRUPT, 0)
        self._used: Any = [0] * 3
        self._used16: Any = [0] * 2
        self._event_idx = False
        self._mask = 0
        # References to guest memory end with the reset: the memory may be unmapped after it.
        self._memory: Any = None
        self._table: Any = None
        self._main: Any = (0, 0, None)
        self._tables: Callable[[int, bytes], Chain | None] | None = None

    @property
    def in_flight(self) -> int:
        """Chains taken and not completed yet."""
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
        self._tables = None
        if self.indirect_vectors and not ram.readonly:
            from pyvmm.virtio.ring.indirect import IndirectTables

            self._tables = IndirectTables(ram.buffer, ram.gpa, ram.address).chain
        table = self._array("descriptor table", self.desc, 2 * size, 8)
        avail = self._array("available ring", self.driver, 3 + size, 2)
        used16 = self._array("used ring", self.device, 3 + 4 * size, 2, True)
        self._used = self._array("used ring", self.device, 1 + 2 * size, 4, True)
        self._used16, self._avail, self._table = used16, avail, table
        self._fetch: Any = unpack_descriptor if isinstance(table, GuestArray) else descriptor.unpack
        self._avail_idx = self._next_avail
        self._budget = size
        self.exhausted = False

    def _array(self, what: str, gpa: int, count: int, width: int, write: bool = False) -> Any:
        size = count * width
        try:
            views = self._memory.views(gpa, size, write)
        except GuestMemoryError as error:
            raise QueueError(f"queue {self.index}: its {what} is not in memory: {error}") from None
        if len(views) == 1:
            return views[0] if width == 8 else views[0].cast("H" if width == 2 else "I")
        return GuestArray(self._memory, gpa, width)

    # What the driver made available

    def pop(self) -> Chain | None:
        """The next chain; None when there is none. Chains that break a rule are completed with length 0.

        After as many bad ones as the queue has entries it returns None and sets ``exhausted``. Between two
        publications it returns no more chains than the queue has entries. Raises QueueError when the ring
        itself is broken.
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
                notice("virtio chain", f"queue {self.index}: a chain of the driver's was refused: {error}")
                self.refuse(head)

    def _more(self, at: int) -> bool:
        """Whether the driver made more available than the entry before *at*."""
        index = self._avail[1]
        if index == at or self.exhausted:
            return False
        # A driver knows of a completed chain by the index in the used ring alone. One that makes a chain
        # available before that could do it as fast as chains are taken, for ever.
        free = self.size - ((at - self._visible) & 0xFFFF)
        if (index - at) & 0xFFFF > free:
            raise QueueError(
                f"queue {self.index}: the driver's index {index} is {(index - at) & 0xFFFF} ahead of {at}, "
                f"and of the queue's {self.size} entries {free} are free"
            )
        self._avail_idx = index
        if not IN_ORDER:
            full_barrier()  # the entries are read after the index that announced them
        return True

    def refuse(self, head: int) -> None:
        """Complete the chain that begins with descriptor *head*, which is of no use, with length 0.

        When as many were refused as the queue has entries, it is ``exhausted``: the driver may add such
        chains as fast as they are refused, and other queues and devices have to be served too.
        """
        self.bad_chains += 1
        self.push_head(head, 0)
        self._budget -= 1
        if not self._budget:
            self._budget = self.size
            self.exhausted = True
            self._avail_idx = self._next_avail  # so that ``pop`` asks ``_more``
            self.publish_index()
            self._run_again(self.index)

    def begin_turn(self) -> None:
        """A later turn of the loop has begun: ``pop`` goes on when it was ``exhausted``."""
        self.exhausted = False

    def pop_with_room(self, least: int, refused: Callable[[], object] | None = None) -> Chain | None:
        """The next chain with at least *least* writable bytes; None when there is none.

        Chains with fewer are refused, and *refused* is called for each. Raises QueueError as ``pop`` does.
        """
        while (chain := self.pop()) is not None:
            if chain.writable_size >= least:
                return chain
            if refused is not None:
                refused()
            self.refuse(chain.head)
        return None

    def unpop(self) -> None:
        """Put the chain that the last ``pop`` returned back: the next ``pop`` returns it again.

        Only before anything else is popped from the queue, and before the chain is completed.
        """
        self._next_avail = (self._next_avail - 1) & 0xFFFF

    def pop_writable(self, want: int, heads: list[int], sizes: list[int], views: list[memoryview]) -> int:
        """Take chains of writable buffers alone until they have *want* bytes; returns the bytes got.

        Of each chain the head is appended to *heads*, its size in bytes to *sizes*, its buffers to *views*:
        one view where buffers are adjacent, also of several chains. A chain of one buffer, as receive
        queues have, costs a third of ``pop``. Raises QueueError as ``pop`` does.
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
            first = stop = 0  # adjacent buffers, of which one view is made
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
                notice(
                    "virtio writable",
                    f"queue {self.index}: a chain that has more or less than writable buffers was refused",
                )
                self.refuse(chain.head)
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
            # One read: the guest may change the descriptor between two.
            address, size, flags, following = fetch(table, index << 4)
            if flags & INDIRECT:
                if flags & NEXT or not self._indirect or table is not self._table:
                    raise ChainError(
                        "an indirect descriptor was not negotiated, has the flag NEXT besides, or lies in an "
                        "indirect table (2.7.5.3.1)"
                    )
                left = mask = (size >> 4) - 1
                # Bounded by the device's maximum, not by the size the driver chose: Linux's block driver
                # sends seg_max segments also on a smaller queue, and takes a request that is refused here for
                # done.
                if size & 15 or not 0 <= mask < self.max_size:
                    raise ChainError(
                        f"an indirect table of {size} bytes; it has 16 a descriptor and at most "
                        f"{self.max_size} of them (2.7.5.3.1)"
                    )
                stop = address + size
                if base <= address and stop <= end:
                    table = ram[address - base : stop - base]
                    whole = self._tables
                    if (
                        whole is not None
                        and _MIN_LINKS < left <= _MAX_LINKS
                        and not readable
                        and not writable
                    ):
                        table = table.tobytes()
                        if (chain := whole(head, table)) is not None:
                            return chain
                else:
                    table = self._memory.read(address, size)
                fetch, index = descriptor.unpack, 0
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

    # Completion

    def push(self, chain: Chain, written: int) -> None:
        """Complete *chain* with *written* bytes of it written; the driver sees it after ``publish``."""
        used, next_used = self._used, self._next_used
        at = 1 + 2 * (next_used & self._mask)
        used[at] = chain.head
        used[at + 1] = written
        self._next_used = (next_used + 1) & 0xFFFF

    def push_head(self, head: int, written: int) -> None:
        """As ``push``, for a chain known by its *head* alone."""
        used, next_used = self._used, self._next_used
        at = 1 + 2 * (next_used & self._mask)
        used[at] = head
        used[at + 1] = written
        self._next_used = (next_used + 1) & 0xFFFF

    def push_filled(self, heads: list[int], sizes: list[int], written: int) -> int:
        """Complete the chains that *written* bytes fill, in order; returns how many those are.

        *heads* and *sizes* are as ``pop_writable`` appends them, and have at least *written* bytes.
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

    def publish_index(self) -> None:
        """Make pushed elements visible and leave it to a later ``publish`` to ask whether to interrupt.

        A driver that polls has seen everything by then, and wants no interrupt.
        """
        if not IN_ORDER:
            full_barrier()
        self._used16[1] = self._visible = self._next_used

    @property
    def interrupt_due(self) -> bool:
        """Whether the driver, as far as it has got by now, wants an interrupt for what is visible to it."""
        old, new = self._published, self._next_used
        if not self._event_idx:
            return old != new and not self._avail[0] & AVAIL_F_NO_INTERRUPT
        event: int = self._avail[self._used_event]
        return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF

    def publish(self) -> bool:
        """Make pushed elements visible; True when the driver wants an interrupt for them (2.7.10)."""
        old, new = self._published, self._next_used
        if old == new:
            return False
        if not IN_ORDER:
            full_barrier()  # the elements are there before the index that announces them
        self._used16[1] = new
        self._published = self._visible = new
        full_barrier()  # either the driver sees the new index, or this load sees its new used_event
        if self._event_idx:
            event: int = self._avail[self._used_event]
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._avail[0] & AVAIL_F_NO_INTERRUPT

    def disable_notification(self) -> None:
        """Tell the driver that it need not notify the device. It may all the same (2.7.10)."""
        if not self._event_idx:
            self._used16[0] = USED_F_NO_NOTIFY

    def enable_notification(self) -> bool:
        """Ask for a notification of the next chain; True when one was added before the driver could know.

        False while ``exhausted``: chains stay pending until the queue is run again.
        """
        if self._event_idx:
            self._used16[self._avail_event] = self._next_avail
        else:
            self._used16[0] = 0
        full_barrier()
        return bool(self._avail[1] != self._next_avail) and not self.exhausted

    # State

    @property
    def position(self) -> int:
        """The place in the available ring, modulo 2**16, of the first chain that is not completed yet.

        Right where chains are completed in the order they were taken in.
        """
        return self._next_used

    def begin_at(self, position: int, in_flight: int = 0) -> None:
        """Go on at *position* with *in_flight* chains taken from there; before ``activate``."""
        self._next_used = self._published = self._visible = position
        self._next_avail = self._avail_idx = (position + in_flight) & 0xFFFF
