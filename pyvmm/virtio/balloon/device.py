"""The memory balloon: guest memory returned to the host while the guest runs. Section 5.5."""

from __future__ import annotations

from collections import deque
from struct import Struct

from pyvmm.backends.host_objects import HostObject
from pyvmm.host.notice import notice
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.virtio import ids
from pyvmm.virtio.balloon.steps import StepwiseRequests
from pyvmm.virtio.device import DEFERRED, VirtioDevice
from pyvmm.virtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyvmm.virtio.device import Deferred
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue

# Feature bits (5.5.3)
F_STATS_VQ = 1 << 1
F_DEFLATE_ON_OOM = 1 << 2
F_PAGE_REPORTING = 1 << 5

# Queues (5.5.2)
INFLATE, DEFLATE, STATS, FREE_PAGE, REPORTING = 0, 1, 2, 3, 4

#: A page of the balloon's, whatever the guest's own pages are.
PAGE = 4096
#: Page numbers one request may hold, and how many of them one step deals with.
MAX_PAGES = 16 << 10
STEP_PAGES = 64
#: Bytes of reported free memory that one step returns to the host.
STEP_BYTES = 8 << 20
#: struct virtio_balloon_stat: tag, value.
STAT = Struct("<HQ")
#: Statistics one report may hold.
MAX_STATS = 256
#: What the tags mean (5.5.6.3, and from oom_kills on linux/virtio_balloon.h); memory in bytes.
STAT_NAMES = (
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
    "oom_kills",
    "allocation_stalls",
    "async_scans",
    "direct_scans",
    "async_reclaims",
    "direct_reclaims",
)
_LAST_PAGE = 0xFFFF_FFFF


class BalloonTarget(HostObject):
    """How many bytes the guest is to give up, *size*, whichever of its machines runs."""

    def __init__(self, size: int) -> None:
        self.size = size


class Balloon(VirtioDevice):
    """The memory balloon.

    :param target: bytes the guest is to give up from the start
    :param deflate_on_oom: the guest may take pages back rather than kill a process
    :param stats: seconds between two questions for statistics; None: only when ``ask_stats`` asks
    :param reporting: the guest reports free pages, and their memory is returned to the host
    """

    device_id = ids.BALLOON
    name = "balloon"
    feature_names = {
        F_STATS_VQ: "STATS_VQ",
        F_DEFLATE_ON_OOM: "DEFLATE_ON_OOM",
        F_PAGE_REPORTING: "PAGE_REPORTING",
    }
    #: Any from the third on may be that of free pages, for which Linux wants 32 entries.
    queue_sizes = (128, 128, 128, 128, 128)
    config_fields = {"num_pages": "u32", "actual": "u32"}
    config_writable = frozenset(("actual",))

    def __init__(
        self,
        target: int | BalloonTarget = 0,
        *,
        deflate_on_oom: bool = False,
        stats: float | None = None,
        reporting: bool = False,
    ) -> None:
        super().__init__()
        self.features = F_STATS_VQ
        if deflate_on_oom:
            self.features |= F_DEFLATE_ON_OOM
        if reporting:
            self.features |= F_PAGE_REPORTING
        #: The guest's last statistics, by the names of STAT_NAMES; a guest reports those that it has.
        self.stats: dict[str, int] = {}
        #: How many reports of statistics came.
        self.reports = 0
        #: Bytes returned to the host so far.
        self.discarded = 0
        #: Page numbers, ranges and requests that broke a rule.
        self.refused = 0
        self._interval = stats
        self._waiting: deque[Chain] = deque()  # deferred buffers for statistics: completing one asks for more
        self._roles: dict[int, Callable[[int, Chain], Deferred | None]] = {}
        self._stepwise = StepwiseRequests(self.runtime)
        self._target = BalloonTarget(target) if isinstance(target, int) else target
        self.target = self._target.size

    @property
    def target(self) -> int:
        """Bytes the guest is to give up. May be set at any time, by any thread; whole pages count.

        Raises ValueError for less than 0 and for more than 16 TiB.
        """
        return int(self.config.num_pages) * PAGE

    @target.setter
    def target(self, size: int) -> None:
        if not 0 <= size // PAGE <= _LAST_PAGE:
            raise ValueError(f"a balloon of {size} bytes; it may have 0 to {_LAST_PAGE * PAGE}")
        self._target.size = size
        self.config.num_pages = size // PAGE
        self.config_changed()

    @property
    def actual(self) -> int:
        """Bytes the guest says that it has given up."""
        return int(self.config.actual) * PAGE

    def ask_stats(self) -> None:
        """Ask the guest for statistics now; ``reports`` counts when they come. Any thread."""
        if self.runtime.active:
            self.runtime.soon(self._ask)

    # The device

    def started(self) -> None:
        """Find out what each queue is for."""
        roles = self._roles = {INFLATE: self._inflate, DEFLATE: self._deflate}
        if self.has(F_STATS_VQ):
            roles[STATS] = self._report
            if self._interval is not None:
                self.runtime.later(self._interval, self._tick)
        if self.has(F_PAGE_REPORTING):
            # The specification numbers all queues; drivers such as Linux's leave out those not negotiated.
            roles[REPORTING if self.runtime.queues[REPORTING].ready else len(roles)] = self._free_pages

    def stopped(self) -> None:
        """Its buffers are the driver's again."""
        self._waiting.clear()
        self._stepwise.clear()

    def process(self, queue: Queue) -> None:
        """Take the requests of *queue*, and carry out what one turn has time for."""
        self.runtime.serve(queue)
        self._stepwise.go_on()

    def handle(self, queue: int, chain: Chain) -> Deferred | None:
        """One request."""
        role = self._roles.get(queue)
        if role is None:
            return None
        try:
            return role(queue, chain)
        except ChainError:
            self.refused += 1
            raise

    def describe(self, queue: int, request: bytes) -> str:
        """What a trace says of a request: the first page it names."""
        if queue not in (INFLATE, DEFLATE) or len(request) < 4:
            return ""
        verb = "inflate" if queue == INFLATE else "deflate"
        return f"{verb}, first page at {int.from_bytes(request[:4], 'little') * PAGE:#x}"

    def pending(self, queue: Queue) -> int:
        """Buffers for statistics that wait here, and requests under way, are taken again after a load."""
        return (len(self._waiting) if queue.index == STATS else 0) + self._stepwise.count(queue.index)

    # Inflate and deflate (5.5.6)

    def _inflate(self, queue: int, chain: Chain) -> Deferred:
        check_page_numbers(chain)
        self._stepwise.add(queue, chain, self._inflating(chain))
        return DEFERRED

    def _inflating(self, chain: Chain) -> Iterator[None]:
        discard = self.memory.discard
        for pages in page_numbers(chain):
            for first, count in runs(pages):
                try:
                    self.discarded += discard(first * PAGE, count * PAGE)
                except GuestMemoryError:  # some of them are no RAM: the others may be discarded
                    for page in range(first, first + count):
                        self._discard(page * PAGE, PAGE)
            yield

    def _deflate(self, queue: int, chain: Chain) -> Deferred:
        check_page_numbers(chain)
        self._stepwise.add(queue, chain, self._deflating(chain))
        return DEFERRED

    def _deflating(self, chain: Chain) -> Iterator[None]:
        # The guest's first access gets a page of the host's; there is nothing to prepare.
        contains = self.memory.contains
        for pages in page_numbers(chain):
            for page in pages:
                if not contains(page * PAGE, PAGE):
                    self._wrong(page * PAGE)
            yield

    def _discard(self, gpa: int, size: int) -> None:
        try:
            self.discarded += self.memory.discard(gpa, size)
        except GuestMemoryError:
            self._wrong(gpa)

    def _wrong(self, gpa: int) -> None:
        self.refused += 1
        notice(
            f"virtio {self.name} page", f"{self.name}: the driver named a page at {gpa:#x}, which is no RAM"
        )

    # Statistics (5.5.6.3)

    def _report(self, queue: int, chain: Chain) -> Deferred:
        data = chain.read_rest(MAX_STATS * STAT.size)
        if len(data) % STAT.size:
            raise ChainError(f"statistics of {len(data)} bytes; each has {STAT.size}")
        self._waiting.append(chain)
        if data:
            self.stats = {
                STAT_NAMES[tag]: value for tag, value in STAT.iter_unpack(data) if tag < len(STAT_NAMES)
            }
            self.reports += 1
        return DEFERRED

    def _ask(self) -> None:
        if self._waiting:
            self.complete(STATS, self._waiting.popleft())

    def _tick(self) -> None:
        assert self._interval is not None, "it was asked for"
        self._ask()
        self.runtime.later(self._interval, self._tick)

    # Free page reporting (5.5.6.7)

    def _free_pages(self, queue: int, chain: Chain) -> Deferred:
        self._stepwise.add(queue, chain, self._returning(chain))
        return DEFERRED

    def _returning(self, chain: Chain) -> Iterator[None]:
        for view in chain.writable:
            gpa, left = self.memory.locate(view), view.nbytes
            while left:  # no page lies in two steps
                part = min(left, STEP_BYTES - gpa % STEP_BYTES)
                self._discard(gpa, part)
                gpa += part
                left -= part
                yield


def check_page_numbers(chain: Chain) -> None:
    """Raises ChainError for an inflate or deflate request that is too long, or no whole page numbers."""
    size = chain.readable_size
    if size % 4 or size > 4 * MAX_PAGES:
        raise ChainError(f"page numbers of {size} bytes; each has 4, and a request at most {MAX_PAGES}")


def page_numbers(chain: Chain) -> Iterator[Iterable[int]]:
    """The page numbers of a request that ``check_page_numbers`` has seen, those of one step at a time."""
    left = chain.readable_size
    while left:
        part = min(left, 4 * STEP_PAGES)
        yield memoryview(chain.read(part)).cast("I")
        left -= part


def runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of adjacent pages, each page once."""
    first = count = 0
    for page in sorted(pages):
        if page == first + count and count:
            count += 1
        elif not count or page >= first + count:
            if count:
                yield first, count
            first, count = page, 1
    if count:
        yield first, count
