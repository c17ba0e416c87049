"""Prints the microseconds a frame of 64 KiB takes from guest to guest through the in-process switch.

Two devices driven without a guest. The sender's frame is laid out as Linux does it: headers, then pieces of
32 KiB. The receiver's mergeable buffers are pages, one behind the other; with ``whole`` one buffer a frame.
"""

from __future__ import annotations

import sys
import time

from pyvmm.backends.net.switch import Switch
from pyvmm.testing import FakeDriver
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.ring.descriptor import WRITE

HEADER, FRAME, PAGE, PIECE = 12, 65536, 4096, 32768
#: What the receive queue of 256 has room for.
BATCH = 12
FRAMES = 12_000


def main() -> None:
    size = HEADER + FRAME if "whole" in sys.argv else PAGE
    switch = Switch()
    with FakeDriver(Net(switch.port())) as sender, FakeDriver(Net(switch.port())) as receiver:
        print(seconds(sender, receiver, size) / FRAMES * 1e6)


def seconds(sender: FakeDriver, receiver: FakeDriver, size: int) -> float:
    """The devices' time for FRAMES frames into buffers of *size* bytes."""
    out, into = sender.queues[1], receiver.queues[0]
    frames = []
    for _ in range(BATCH):
        first = sender.allocate(HEADER + 54, PAGE)
        data = receiver.device.mac + sender.device.mac + b"\x88\xb5" + bytes(40)
        sender.memory.write(first, bytes(HEADER) + data)
        parts, left = [(first, HEADER + 54, 0)], FRAME - 54
        while left:
            part = min(left, PIECE)
            parts.append((sender.allocate(PIECE, PAGE), part, 0))
            left -= part
        frames.append(parts)
    room = [receiver.allocate(size, PAGE) for _ in range(into.size)]
    free, spent = list(room), 0.0
    for _ in range(FRAMES // BATCH):
        for parts in frames:
            out.add_buffers(parts, indirect=True)
        while free:
            address = free.pop(0)
            into.add_buffers([(address, size, WRITE)], [(address, size)])
        sent = 0
        while sent < BATCH:  # a turn that takes too long leaves some frames to the next one
            begin = time.perf_counter()
            sender.device.runtime.run_queue(1)
            spent += time.perf_counter() - begin
            sent += len(out.collect())
        done = into.collect()
        assert sum(request.written for request in done) == BATCH * (HEADER + FRAME)
        free += [request.buffers[0][0] for request in done]
    return spent


if __name__ == "__main__":
    main()
