"""The block device: a disk image for the guest. Section 5.2.

Data goes straight between the image and guest memory. Requests are carried out in the order they come, in the
device's own thread; requests that are adjacent on the disk become one transfer. Transfers that would wait for
the medium run in a pool of threads, where the disk allows that.
"""

from __future__ import annotations

import errno
from time import perf_counter

from pyvmm.backends.disk.base import SECTOR, DiskError
from pyvmm.host.notice import notice
from pyvmm.virtio import ids
from pyvmm.virtio.block import persist
from pyvmm.virtio.block import request as r
from pyvmm.virtio.block.request import BlockRequest
from pyvmm.virtio.block.transfer import Transfers
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.backends.disk.base import Disk
    from pyvmm.virtio.ring.queue import Queue

QUEUE_SIZE = 256
#: Buffers a request may have: the queue's entries, less the header's and the status's.
SEG_MAX = QUEUE_SIZE - 2
MAX_QUEUES = 16

#: Adjacent requests become one transfer of at most this many bytes and buffers.
MERGE_BYTES = 1 << 20
MERGE_VIEWS = 512
#: Seconds that completed requests may wait for others of their batch before they are published.
HOLD = 0.0002
#: Seconds that a queue is served before the disk's other queues, and a save, have their turn.
TURN = 0.02

#: Sectors one segment may cover: 1 GiB of a DISCARD; 32 MiB of a WRITE_ZEROES, which may have to be written.
MAX_DISCARD = 1 << 21
MAX_WRITE_ZEROES = 1 << 16
MAX_SEGMENTS = 32
#: Sectors zeroed by one call: 8 MiB, which may have to be written. A reset waits for no more than one call.
ZEROES_AT_ONCE = 1 << 14

CACHES = ("writeback", "writethrough", "unsafe")

_TRANSFERS = (r.IN, r.OUT)
_NAMES = {r.IN: "read", r.OUT: "write", r.FLUSH: "flush", r.DISCARD: "discard", r.WRITE_ZEROES: "zeroing"}


class Block(VirtioDevice):
    """A disk whose contents are *disk*, which the device closes unless it is ``kept``.

    :param serial: what GET_ID answers, 20 characters of ASCII at most
    :param queues: request queues, 1 to 16; one thread serves them all
    :param cache: ``writeback`` keeps writes in the host's cache until the guest flushes, ``writethrough``
        brings each to the medium unless the guest chooses otherwise, ``unsafe`` ignores flushes

    Raises DiskError for a serial or a number of queues out of range.
    """

    device_id = ids.BLOCK
    name = "disk"
    config_fields = r.CONFIG_FIELDS
    config_writable = frozenset(("writeback",))
    own_thread = True
    indirect_vectors = True

    def __init__(self, disk: Disk, *, serial: str = "", queues: int = 1, cache: str = "writeback") -> None:
        if len(serial) > r.ID_SIZE or not (serial.isascii() and serial.isprintable()):
            raise DiskError(f"serial {serial!r} must be at most {r.ID_SIZE} printable characters of ASCII")
        if not 1 <= queues <= MAX_QUEUES:
            raise DiskError(f"a disk has 1 to {MAX_QUEUES} queues, not {queues}")
        self.queue_sizes = (QUEUE_SIZE,) * queues
        self.features = r.F_SEG_MAX | r.F_BLK_SIZE | r.F_TOPOLOGY | r.F_FLUSH | r.F_CONFIG_WCE
        self.features |= r.F_RO if disk.readonly else r.F_DISCARD | r.F_WRITE_ZEROES
        if queues > 1:
            self.features |= r.F_MQ
        super().__init__()
        self.disk = disk
        self.serial = serial
        #: Sectors of the disk.
        self.sectors = 0
        self._cache = cache
        self.transfers = Transfers(
            disk,
            lambda request, error: self._failed(_NAMES[request.kind], error),
            lambda: self.runtime.soon(self._collect),
        )
        self._configure()

    def _configure(self) -> None:
        """Set the configuration space as the image and the options have it."""
        config, disk = self.config, self.disk
        self._set_capacity()
        config.seg_max = SEG_MAX
        config.blk_size = disk.block_size
        ratio = disk.physical_block_size // disk.block_size
        config.physical_block_exp = ratio.bit_length() - 1
        config.min_io_size = ratio
        config.opt_io_size = disk.optimal_size // disk.block_size
        config.writeback = self._cache != "writethrough"
        config.num_queues = len(self.queue_sizes)
        if not disk.readonly:
            config.max_discard_sectors = MAX_DISCARD
            config.max_discard_seg = config.max_write_zeroes_seg = MAX_SEGMENTS
            config.discard_sector_alignment = disk.physical_block_size // SECTOR
            config.max_write_zeroes_sectors = MAX_WRITE_ZEROES
            config.write_zeroes_may_unmap = 1

    # For the machine's user

    def resized(self) -> bool:
        """Take the image's size as it is now, and tell the driver; False when it has not changed. Any thread.

        Raises DiskError when the image's size is no whole number of blocks.
        """
        if not self.disk.refresh():
            return False
        self._set_capacity()
        self.config_changed()
        return True

    # The device's life

    def started(self) -> None:
        """The driver is ready."""
        if self.has(r.F_CONFIG_WCE) and not self.has(r.F_FLUSH):
            self.config.writeback = 0  # 5.2.5.2
        self._choose_cache()

    def stopped(self) -> None:
        """The driver reset the device: only transfers under way are waited for."""
        self.transfers.abandon()
        self.config.writeback = self._cache != "writethrough"

    def config_written(self, offset: int, size: int) -> None:
        """The driver chose how writes are cached."""
        self._choose_cache()

    def before_save(self) -> None:
        """Wait for every transfer under way."""
        self.transfers.drain()
        self._collect()

    def save_state(self) -> dict[str, Any]:
        """What block/persist.py lists."""
        return persist.save()

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore it: the image decides all but the driver's choice of write caching.

        Raises StateError when the image has another size, or blocks of another size, than the saved one.
        """
        config = self.config
        saved, writeback = (config.capacity, config.blk_size), config.writeback
        self._configure()
        config.writeback = writeback & 1
        persist.check(self.name, state, self.disk.path, (config.capacity, config.blk_size), saved)

    def close(self) -> None:
        """End the pool, and close the image unless it is kept."""
        self.transfers.close()
        self.disk.close_unless_kept()

    # Requests

    def process(self, queue: Queue) -> None:
        """Serve *queue*: a run of adjacent reads or writes is one transfer."""
        runtime = self.runtime
        pop, left, sectors = queue.pop, queue.size, self.sectors
        run: list[BlockRequest] = []
        # What would extend the run: a request of this kind at this sector, with this much room.
        kind, end, room, views = -1, 0, 0, 0
        published = perf_counter()
        turn_ends = published + TURN
        queue.disable_notification()
        while True:
            while left and (chain := pop()) is not None:
                left -= 1
                try:
                    request = BlockRequest(chain)
                except ChainError as error:
                    runtime.refuse(error)
                    queue.push(chain, 0)
                    continue
                size, sector = request.size, request.sector
                stop = sector + (size >> 9)
                plain = request.kind in _TRANSFERS and size and not size & 511 and stop <= sectors
                extends = plain and sector == end and request.kind == kind
                if extends and size <= room and len(request.data) <= views:
                    run.append(request)
                else:
                    if run:
                        self._transfer(queue, run)
                        if runtime.stopping:
                            return
                        if perf_counter() - published > HOLD:
                            runtime.publish(queue)
                            published = perf_counter()
                            if published > turn_ends:
                                left = 0
                    if not plain:
                        run = []
                        kind = -1
                        self._serve(queue, request)
                        if runtime.stopping:
                            return
                        if perf_counter() > turn_ends:
                            left = 0
                        continue
                    run = [request]
                    kind, room, views = request.kind, MERGE_BYTES, MERGE_VIEWS
                end = stop
                room -= size
                views -= len(request.data)
            if run:
                self._transfer(queue, run)
                run = []
                kind = -1
            if not left:
                runtime.kick(queue.index)
                break
            if not queue.enable_notification():
                break
            queue.disable_notification()
        runtime.publish(queue)

    def _transfer(self, queue: Queue, run: list[BlockRequest]) -> None:
        """Read or write what *run* asks for, adjacent on the disk."""
        statuses = self.transfers.carry_out(queue, run)
        if statuses is not None:
            _complete(queue, run, statuses)

    def _collect(self) -> None:
        """Complete what the pool has carried out. In the device's loop."""
        touched = []
        for queue, run, statuses in self.transfers.finished():
            _complete(queue, run, statuses)
            if queue not in touched:
                touched.append(queue)
        for queue in touched:
            self.runtime.publish(queue)

    def _serve(self, queue: Queue, request: BlockRequest) -> None:
        """A request by itself: neither a read nor a write, or one that is refused."""
        kind = request.kind
        try:
            if kind == r.FLUSH:
                if self._cache != "unsafe":
                    self.disk.flush()
                status = r.OK
            elif kind == r.GET_ID:
                status = self._get_id(request)
            elif kind in (r.DISCARD, r.WRITE_ZEROES):
                status = self._discard(request)
            elif kind in _TRANSFERS:
                raise ChainError(
                    f"{request.size} bytes at sector {request.sector} are not some whole sectors of the "
                    f"disk's {self.sectors}"
                )
            elif kind == r.NO_HEADER:
                raise ChainError("its header is shorter than 16 bytes (5.2.6)")
            else:
                status = r.UNSUPP
        except ChainError as error:
            self.runtime.refuse(error)
            status = r.IOERR
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                status = r.UNSUPP
            else:
                self._failed(_NAMES[kind], error)
                status = r.IOERR
        request.status[0] = status
        queue.push(request.chain, request.room)

    def _get_id(self, request: BlockRequest) -> int:
        if request.size < r.ID_SIZE:
            raise ChainError(f"{request.size} bytes are too few for an identifier of {r.ID_SIZE}")
        data = self.serial.encode().ljust(r.ID_SIZE, b"\0")
        for view in request.data:
            part = data[: len(view)]
            view[: len(part)] = part
            data = data[len(part) :]
        return r.OK

    def _discard(self, request: BlockRequest) -> int:
        """DISCARD and WRITE_ZEROES: every segment is checked before the first is carried out."""
        if self.disk.readonly:
            return r.IOERR
        size = request.size
        if not 0 < size <= MAX_SEGMENTS * r.SEGMENT.size or size % r.SEGMENT.size:
            raise ChainError(f"{size} bytes are no 1 to {MAX_SEGMENTS} whole segments of a discard (5.2.6.1)")
        segments = r.segments(b"".join(request.data))
        zeroes = request.kind == r.WRITE_ZEROES
        most = MAX_WRITE_ZEROES if zeroes else MAX_DISCARD
        for sector, count, flags in segments:
            if flags & ~(r.UNMAP if zeroes else 0):
                return r.UNSUPP
            if count > most or sector + count > self.sectors:
                raise ChainError(
                    f"a discard of {count} sectors at {sector}; {most} is the most, of {self.sectors}"
                )
        for sector, count, flags in segments:
            for at in range(sector, sector + count, ZEROES_AT_ONCE if zeroes else MAX_DISCARD):
                if self.runtime.stopping:
                    return r.IOERR  # the queue is about to be reset, and nobody sees the answer
                if zeroes:
                    size = min(ZEROES_AT_ONCE, sector + count - at) * SECTOR
                    self.disk.write_zeroes(at * SECTOR, size, bool(flags & r.UNMAP), self.transfers.durable)
                else:
                    self.disk.discard(at * SECTOR, count * SECTOR)
        return r.OK

    # Inside

    def _set_capacity(self) -> None:
        self.sectors = self.config.capacity = self.disk.size // SECTOR

    def _choose_cache(self) -> None:
        if self.has(r.F_CONFIG_WCE):
            durable = not self.config.writeback
        else:  # a driver that cannot flush relies on it
            durable = self._cache == "writethrough" or not self.has(r.F_FLUSH)
        self.transfers.durable = durable and self._cache != "unsafe"

    def _failed(self, what: str, error: OSError) -> None:
        notice(
            f"disk {what}",
            f"{self.name}: {what} of {self.disk.path} failed: {error.strerror or error}; "
            "the guest gets an I/O error",
        )


def _complete(queue: Queue, run: list[BlockRequest], statuses: list[int]) -> None:
    for request, status in zip(run, statuses, strict=True):
        request.status[0] = status
        queue.push(request.chain, request.room)
