"""Where the process may use one CPU: vCPUs run queues themselves. Deleted with this file and the call of
``install``.

With one CPU a thread beside the vCPU's gains nothing: a notification by eventfd waits for a switch of
threads, the guest goes idle meanwhile, and the answer costs another switch. Here the queue's ioeventfd is
taken away, so that the notification is an exit, and the vCPU that makes it runs the queue, unless the device
is at work already. A vCPU waits for no lock and no medium that way; what it cannot do at once it leaves to
the device's loop.

Measured in the lab on one CPU, against the loop: transfers of 256 KiB one by one take a tenth to a fifth less
time, 64 bytes there and back through a tap a third less. TCP whose segments are sent one by one takes four
times as long: so the network device lets vCPUs send answers alone.

Devices with observers, and those whose queues another process runs, are left as they are.
"""

from __future__ import annotations

import os

from pyvmm.backends.disk.base import SECTOR
from pyvmm.loop import EDGE, READ
from pyvmm.virtio import ids
from pyvmm.virtio.block.request import FLUSH, IN, OK, OUT, BlockRequest
from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.net.receive import USUAL
from pyvmm.virtio.transport.mmio import QUEUE_NOTIFY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.pykvm import Vm
    from pyvmm.virtio.block.device import Block
    from pyvmm.virtio.net.device import Net
    from pyvmm.virtio.ring.chain import Chain
    from pyvmm.virtio.ring.queue import Queue
    from pyvmm.virtio.transport.bus import Attached
    from pyvmm.virtio.transport.mmio import VirtioMmio

    #: Called with a queue's number, and whether KVM is to signal the eventfd for its notifications.
    Doorbell = Callable[[int, bool], object]

_REGISTER_WIDTH = 4

#: Bytes of a request that a vCPU carries out at most.
MAX_TRANSFER = 1 << 20
#: Bytes of a frame that may be an answer.
SHORT = 512
#: Notifications in a row that would better have been served the other way, after which they are.
CONVERSATION = 32


def install(attached: Sequence[Attached], vm: Vm) -> None:
    """Let vCPUs run queues of *attached*, if there is one CPU. Before the guest runs. Raises KvmError."""
    if len(os.sched_getaffinity(0)) > 1:
        return
    for one in attached:
        device = one.device
        if device.external or device.runtime.observers:
            continue
        if device.device_id == ids.BLOCK:
            from pyvmm.virtio.block.device import Block

            if isinstance(device, Block) and device.disk.nonblocking_reads:
                BlockOnVcpu(device, one.transport, doorbell(one, vm))
        elif device.device_id == ids.NET:
            from pyvmm.virtio.net.device import Net

            if isinstance(device, Net) and device.backend.sends_in_any_thread:
                NetOnVcpu(device, one.transport, doorbell(one, vm)).watch(one.kicks)


def doorbell(attached: Attached, vm: Vm) -> Doorbell:
    """What assigns and deassigns the ioeventfds of *attached*'s queues."""

    def assign(queue: int, signal: bool) -> None:
        address = attached.base + QUEUE_NOTIFY
        vm.ioeventfd(attached.kicks[queue], address, _REGISTER_WIDTH, queue, deassign=not signal)

    return assign


class BlockOnVcpu:
    """A vCPU carries out one request of its own, if the page cache has its data or the image is in memory.

    :param doorbell: what ``doorbell`` returns
    """

    def __init__(self, device: Block, transport: VirtioMmio, doorbell: Doorbell) -> None:
        self._device = device
        self._kick = transport.kick
        transport.on_notify = self._notified
        for queue in range(len(device.queue_sizes)):
            doorbell(queue, False)

    def _notified(self, index: int) -> None:
        """A vCPU notified queue *index*."""
        runtime = self._device.runtime
        if not runtime.lock.acquire(False):
            self._kick(index)  # the device is at work, and may wait for the medium
            return
        try:
            runtime.run_locked(index, self._process)
        finally:
            runtime.lock.release()

    def _process(self, queue: Queue) -> None:
        runtime = self._device.runtime
        queue.disable_notification()
        chain = queue.pop()
        if chain is not None and not self._carry_out(queue, chain):
            queue.unpop()
            runtime.kick(queue.index)
        elif queue.enable_notification():
            runtime.kick(queue.index)
        runtime.publish(queue)

    def _carry_out(self, queue: Queue, chain: Chain) -> bool:
        """Do what *chain* asks for and push it; False when it has to wait, or is not plain."""
        device = self._device
        try:
            request = BlockRequest(chain)
        except ChainError:
            return False
        kind, size, disk = request.kind, request.size, device.disk
        if kind == FLUSH:
            if not disk.in_memory:
                return False  # in memory there is nothing to bring to a medium
        else:
            offset = request.sector * SECTOR
            if not 0 < size <= MAX_TRANSFER or size % SECTOR or offset + size > device.sectors * SECTOR:
                return False
            try:
                if kind == IN:
                    if not disk.read_now(request.data, offset, size):
                        return False
                elif kind == OUT and disk.in_memory and not disk.readonly:
                    disk.write(request.data, offset, size, device.transfers.durable)
                else:
                    return False
            except OSError:
                return False  # the loop does it again, and reports the error
        request.status[0] = OK
        queue.push(chain, request.room)
        return True


class NetOnVcpu:
    """vCPUs send frames themselves as long as most of what is sent is answers: short, after a short one
    alone.

    Anything else costs less in a batch, and a batch lets TCP make long segments.

    :param doorbell: what ``doorbell`` returns
    """

    def __init__(self, device: Net, transport: VirtioMmio, doorbell: Doorbell) -> None:
        self._device = device
        self._doorbell = doorbell
        self._kick = transport.kick
        transport.on_notify = self._notified
        pairs = len(device.queue_sizes) // 2
        # By pair: whether vCPUs send, the notifications in a row better served the other way, and ``pulls``
        # of the receiver when it was last looked at.
        self._on = [False] * pairs
        self._misjudged = [0] * pairs
        self._pulls = [0] * pairs

    def watch(self, kicks: Sequence[int]) -> None:
        """Run the transmit queues whose eventfds are among *kicks*, the device's, by ``kicked``."""
        loop = self._device.runtime.loop
        for index in range(1, len(kicks), 2):
            loop.remove(kicks[index])
            loop.add(kicks[index], READ | EDGE, lambda _, index=index: self.kicked(index))  # type: ignore[misc]

    def kicked(self, index: int) -> None:
        """As ``Runtime.run_queue``, for a transmit queue. In the device's loop."""
        runtime = self._device.runtime
        with runtime.lock:
            runtime.run_locked(index, self._process_in_loop)

    def _notified(self, index: int) -> None:
        """A vCPU notified queue *index*."""
        pair = index >> 1
        if not (index & 1 and self._on[pair] and self._is_answer(pair) and self._send(index)):
            self._kick(index)

    def _send(self, index: int) -> bool:
        """Run queue *index*, unless the device is at work."""
        runtime = self._device.runtime
        if not runtime.lock.acquire(False):
            return False
        try:
            runtime.run_locked(index, self._process_on_vcpu)
        finally:
            runtime.lock.release()
        return True

    def _process_in_loop(self, queue: Queue) -> None:
        pair = queue.index >> 1
        self._judge(pair, self._on[pair] or self._is_answer(pair))
        self._device.process(queue)

    def _process_on_vcpu(self, queue: Queue) -> None:
        self._judge(queue.index >> 1, False)
        self._device.process(queue)

    def _judge(self, pair: int, misjudged: bool) -> None:
        """Count whether a notification was served the worse way, and change who serves them after enough."""
        self._misjudged[pair] = self._misjudged[pair] + 1 if misjudged else 0
        if self._misjudged[pair] == CONVERSATION:
            self._misjudged[pair] = 0
            self._on[pair] = not self._on[pair]
            self._doorbell(2 * pair + 1, not self._on[pair])

    def _is_answer(self, pair: int) -> bool:
        """Whether the last frame sent was short, and a short one has come alone since this was last asked."""
        receivers = self._device.receivers  # taken once: a reset replaces it
        if self._device.last_sent > SHORT or pair >= len(receivers):
            return False
        receiver = receivers[pair]
        seen, self._pulls[pair] = self._pulls[pair], receiver.pulls
        return receiver.pulls != seen and receiver.lone > 0 and receiver.want == USUAL
