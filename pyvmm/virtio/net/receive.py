"""The receive side of one queue pair: frames into the driver's buffers. Section 5.1.6.3, 5.1.6.4.

Chains are taken when there is a frame for them. A frame is read straight into as many of them as the
last frames needed, and the rest of a longer one into a spill buffer, from which it is copied into further
chains: so no frame is truncated, and a small one uses one buffer.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque

from pyvmm.backends.net.base import HEADER, MAX_FRAME, MIN_FRAME
from pyvmm.host.notice import notice
from pyvmm.virtio.errors import QueueError
from pyvmm.virtio.net.header import NUM_BUFFERS, PLAIN, HeaderError, check, complete, left_undone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.backends.net.pcap import Capture
    from pyvmm.virtio.net.filter import Filter
    from pyvmm.virtio.ring.queue import Queue

#: Bytes of frames kept for a driver without buffers, when other guests push them.
BACKLOG = 4 << 20
#: Frames read from a backend before others get their turn.
BUDGET = 64
#: Calls in a row that found one frame each, after which the next call tries to read a second one again.
LONE = 4
#: Bytes of writable buffers to have at least: a frame of the usual MTU.
USUAL = HEADER + 1518
#: Views that one read may have (readv(2)).
IOV_MAX = 1024
_ONE = (1).to_bytes(2, "little")

# What ``pull`` found.
EMPTY = 0  # nothing left to read
MORE = 1  # the budget is used up
STARVED = 2  # the driver has no buffers: to be tried again when it kicks


class Receiver:
    """Receive queue *queue*.

    :param offloads: what the driver accepts with checksum or segmentation not done
    :param mergeable: a frame may be spread over several chains (VIRTIO_NET_F_MRG_RXBUF)
    :param foreign: headers come from another guest, and are checked
    :param used: interrupts the driver for used buffers
    :param broken: called, from any thread, when the ring breaks its rules
    """

    def __init__(
        self,
        queue: Queue,
        *,
        offloads: int,
        mergeable: bool,
        foreign: bool,
        wanted: Filter,
        capture: Capture | None,
        used: Callable[[], object],
        broken: Callable[[QueueError], object],
    ) -> None:
        #: Held while anything touches the queue; under it only the interrupt is raised.
        self.lock = allocate_lock()
        #: False from the reset on: guest memory is not accessed any more.
        self.open = True
        #: The device is held: frames that are delivered are kept.
        self.held = False
        #: What the driver accepts with checksum or segmentation not done.
        self.offloads = offloads
        #: Frames without a buffer, too long, or with a bad header.
        self.dropped = 0
        #: The driver has no buffers and will notify the device when it has some.
        self.starved = False
        self._queue = queue
        self._mergeable = mergeable
        self._foreign = foreign
        self._filter = wanted
        self._capture = capture
        self._used = used
        self._broken = broken
        # Chains taken and not completed yet: the head and the bytes of each, and views of all.
        self._heads: list[int] = []
        self._sizes: list[int] = []
        self._views: list[memoryview] = []
        self._room = 0
        #: Bytes that the next frame is expected to need, header included; USUAL after short ones.
        self.want = USUAL
        #: How often ``pull`` was called, and how many of the last calls in a row found one frame.
        self.pulls = self.lone = 0
        self._backlog: deque[bytes] = deque()
        self._backlog_size = 0
        self._spill = memoryview(bytearray(HEADER + MAX_FRAME + 1))
        self._iov = [self._spill]

    # From a backend that is read

    def pull(self, read: Callable[[list[memoryview]], int]) -> int:
        """Read frames until *read* raises BlockingIOError: EMPTY; or MORE, or STARVED. Raises QueueError.

        MORE after a single frame when the last calls found one each: the descriptor stays ready for another.
        """
        with self.lock:
            found = self._pull(read)
            if self._queue.publish():
                self._used()
        return found

    def _pull(self, read: Callable[[list[memoryview]], int]) -> int:
        if not self._drain():
            return STARVED
        wanted = self._filter.passes
        alone, self.lone = self.lone, 0
        self.pulls += 1
        for count in range(1 if alone % LONE else BUDGET):
            if self._room < self.want and not self._grow(self.want) and not self._heads:
                self.starved = True
                return STARVED
            try:
                size = read(self._iov)
            except BlockingIOError:
                self.lone = alone + 1 if count == 1 else 0
                return EMPTY
            except OSError:
                if len(self._iov) <= IOV_MAX:
                    raise
                found = self._pull_by_copy(read)
                if found is None:
                    continue
                return found
            if size < HEADER + MIN_FRAME:
                continue
            self.want = max(size, self.want - (self.want >> 3), USUAL)
            if not wanted(self._peek(HEADER, 6)):
                continue
            if self._foreign and not self._unfinished(size):
                if self._backlog:
                    return STARVED
                continue
            if self._capture is not None:
                self._capture.frame(self._gathered(size)[HEADER:])
            if size <= self._room:
                self._finish(size)
            elif not self._overflow(size):
                return STARVED
        if alone % LONE:
            self.lone = alone + 1
        return MORE

    def _pull_by_copy(self, read: Callable[[list[memoryview]], int]) -> int | None:
        """Read one frame past the driver's buffers, more than one read may have, and copy it into them.

        Returns what ``pull`` does, None to go on.
        """
        try:
            size = read([self._spill])
        except BlockingIOError:
            return EMPTY
        if size < HEADER + MIN_FRAME:
            return None
        if size >= len(self._spill):
            self._drop(f"a frame of more than {MAX_FRAME} bytes")
            return None
        header, frame = bytes(self._spill[:HEADER]), bytes(self._spill[HEADER:size])
        if not self._filter.passes(frame[:6]):
            return None
        if self._foreign:
            try:
                header = check(header, len(frame))
            except HeaderError as error:
                self._drop(f"a frame's header: {error}")
                return None
            if left_undone(header) & ~self.offloads:
                self._complete(header, frame)
                return STARVED if self._backlog else None
        if self._capture is not None:
            self._capture.frame(frame)
        return None if self._place(header + frame) else STARVED

    def discard(self, read: Callable[[list[memoryview]], int]) -> None:
        """Read frames and drop them: the link is down."""
        try:
            for _ in range(BUDGET):
                read([self._spill])
        except BlockingIOError:
            pass

    def _overflow(self, size: int) -> bool:
        """A frame of *size* bytes was longer than the buffers: its end is in the spill buffer."""
        room = self._room
        if size - room > len(self._spill) - 1:
            self._drop(f"a frame of more than {MAX_FRAME} bytes")
            return True
        if not self._mergeable:
            return self._place(self._gathered(size))
        self._grow(size)
        if self._room < size:
            return self._place(self._gathered(size, room))
        scatter([self._spill[: size - room]], self._views, room)
        self._finish(size)
        return True

    def _unfinished(self, size: int) -> bool:
        """Check a foreign header; False when its frame was dropped, or finished and placed in another way."""
        try:
            header = check(self._peek(0, HEADER), size - HEADER)
        except HeaderError as error:
            self._drop(f"a frame's header: {error}")
            return False
        if left_undone(header) & ~self.offloads:
            self._complete(header, self._gathered(size)[HEADER:])
            return False
        self._poke(0, header)
        return True

    # From another guest

    def deliver(self, header: bytes, views: Sequence[memoryview], size: int) -> None:
        """Copy a frame of *size* bytes into the driver's buffers, or keep it until there are. Any thread."""
        with self.lock:
            if not self.open or not self._filter.passes(bytes(views[0][:6])):
                return
            try:
                header = check(header, size)
                if header is not PLAIN and left_undone(header) & ~self.offloads:
                    self._complete(header, b"".join(views))
                    return
                if self._capture is not None:
                    self._capture.frame(b"".join(views))
                if not self._backlog and not self.held:
                    want = HEADER + size
                    if self._room < want:
                        self._grow(want)
                    if self._room >= want and (self._mergeable or self._sizes[0] >= want):
                        self._poke(0, header)
                        scatter(views, self._views, HEADER)
                        self._finish(want)
                        return
                self._keep(header + b"".join(views))
                if not self.starved:
                    self._drain()
            except HeaderError as error:
                self._drop(f"a frame's header: {error}")
            except QueueError as error:
                self._broken(error)

    def flush(self) -> None:
        """Publish what was delivered. Any thread."""
        with self.lock:
            if self.open and self._queue.publish():
                self._used()

    def resume(self) -> None:
        """The driver may have new buffers: fill them with the frames that were kept. Raises QueueError."""
        with self.lock:
            self.starved = False
            self._queue.disable_notification()
            self._drain()
            if self._queue.publish():
                self._used()

    def hold(self) -> None:
        """Do not use the queue until ``held`` is False again; publish what was delivered before."""
        with self.lock:
            self.held = True
            if self.open and self._queue.publish():
                self._used()

    def close(self) -> None:
        """The driver has reset the device, or it was halted: guest memory is not accessed any more."""
        with self.lock:
            self.open = False
            self._backlog.clear()

    @property
    def heads(self) -> list[int]:
        """The heads of chains taken and not completed."""
        return list(self._heads)

    def load(self, heads: Sequence[int]) -> None:
        """Take the chains with these *heads*. Raises QueueError for one out of range."""
        for head in heads:
            if not 0 <= head < self._queue.size:
                raise QueueError(f"queue {self._queue.index} has no descriptor {head}")
            chain = self._queue.walk(head)
            self._heads.append(head)
            self._sizes.append(chain.writable_size)
            self._views += chain.writable
            self._room += chain.writable_size
        self._iov = [*self._views, self._spill]

    # Room and what fills it; the lock is held

    def _grow(self, want: int) -> bool:
        """Take chains until their buffers have *want* bytes; False when the driver has fewer."""
        if not self._mergeable and self._heads:
            return True  # one chain a frame: the others stay in the queue
        queue, found = self._queue, True
        while self._room < want:
            least = want - self._room if self._mergeable else 1
            self._room += queue.pop_writable(least, self._heads, self._sizes, self._views)
            if self._room >= want or (self._heads and not self._mergeable):
                break
            if not queue.enable_notification():
                found = False
                break
            queue.disable_notification()
        self._iov = [*self._views, self._spill]
        return found

    def _finish(self, size: int) -> None:
        """A frame of *size* bytes, header included, is in the chains: complete those that it fills."""
        first, whole = self._views[0], self._sizes[0]
        if size <= whole and first.nbytes >= whole:
            # A fast path for short frames: one chain of one buffer.
            first[NUM_BUFFERS:HEADER] = _ONE
            self._queue.push_head(self._heads.pop(0), size)
            del self._sizes[0]
            self._room -= whole
            if first.nbytes > whole:  # a view may span several chains
                self._views[0] = self._iov[0] = first[whole:]
            else:
                del self._views[0], self._iov[0]
            return
        count = self._queue.push_filled(self._heads, self._sizes, size)
        self._poke(NUM_BUFFERS, count.to_bytes(2, "little"))
        self._forget(count)

    def _forget(self, count: int) -> None:
        """The first *count* chains were completed."""
        gone = sum(self._sizes[:count])
        self._room -= gone
        views = self._views
        whole = 0
        while gone and gone >= (size := views[whole].nbytes):
            gone -= size
            whole += 1
        if gone:  # a view may span several chains
            views[whole] = views[whole][gone:]
        del self._heads[:count], self._sizes[:count], views[:whole]
        self._iov = [*views, self._spill]

    def _complete(self, header: bytes, frame: bytes) -> None:
        """Do the checksums and the segmentation that the driver did not accept to do."""
        try:
            frames = complete(header, frame)
        except HeaderError as error:
            self._drop(str(error))
            return
        for one in frames:
            if self._capture is not None:
                self._capture.frame(one)
            self._keep(PLAIN + one)
        if not self.starved:
            self._drain()

    def _keep(self, frame: bytes) -> None:
        """Keep *frame*, with its header, until there are buffers; it is dropped when too many are kept."""
        if self._backlog_size + len(frame) > BACKLOG:
            self.dropped += 1
            return
        self._backlog.append(frame)
        self._backlog_size += len(frame)

    def _drain(self) -> bool:
        """Place the frames that are kept; False when some still are."""
        if self.held:
            return not self._backlog
        while self._backlog:
            frame = self._backlog.popleft()
            self._backlog_size -= len(frame)
            if not self._place(frame):
                return False
        return True

    def _place(self, frame: bytes) -> bool:
        """Copy *frame*, header included, into chains; False, and it is kept, when there are too few."""
        size = len(frame)
        self._grow(size)
        if self._mergeable:
            if self._room < size:
                if len(self._heads) >= self._queue.size:
                    self._drop(f"a frame of {size} bytes is more than all buffers of the driver hold")
                    return True
                self._wait(frame)
                return False
        else:
            if not self._heads:
                self._wait(frame)
                return False
            if self._sizes[0] < size:
                # Completed unused, so that a longer one can follow.
                self._drop(f"a frame of {size} bytes; the driver's buffer has {self._sizes[0]}")
                self._queue.push_head(self._heads[0], 0)
                self._forget(1)
                return True
        scatter([memoryview(frame)], self._views, 0)
        self._finish(size)
        return True

    def _wait(self, frame: bytes) -> None:
        self._backlog.appendleft(frame)
        self._backlog_size += len(frame)
        self.starved = True

    def _drop(self, why: str) -> None:
        self.dropped += 1
        notice("net receive", f"net: a received frame was dropped: {why}")

    def _peek(self, start: int, size: int) -> bytes:
        """*size* bytes from *start* of what was just read."""
        first = self._iov[0]
        if start + size <= first.nbytes:
            return bytes(first[start : start + size])
        return self._gathered(start + size)[start:]

    def _poke(self, start: int, data: bytes) -> None:
        scatter([memoryview(data)], self._iov, start)

    def _gathered(self, size: int, room: int | None = None) -> bytes:
        """The *size* bytes just read: *room* of them in the chains, the others in the spill buffer."""
        parts, left = [], min(size, self._room if room is None else room)
        rest = size - left
        for view in self._views:
            if left <= 0:
                break
            parts.append(view[:left])
            left -= view.nbytes
        return b"".join([*parts, self._spill[:rest]])


def scatter(sources: Sequence[memoryview], targets: Sequence[memoryview], start: int) -> None:
    """Copy all of *sources* to *targets* from byte *start* on; the targets have that much room."""
    index = 0
    while start >= targets[index].nbytes:
        start -= targets[index].nbytes
        index += 1
    target = targets[index]
    room = target.nbytes - start
    for source in sources:
        size, at = source.nbytes, 0
        while size - at > room:
            target[start:] = source[at : at + room]
            at += room
            index += 1
            target, start = targets[index], 0
            room = target.nbytes
        target[start : start + size - at] = source[at:] if at else source
        start += size - at
        room -= size - at
