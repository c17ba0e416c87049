"""A block device on a file, with the fake driver at its other side."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyvmm.backends.disk.raw import RawDisk
from pyvmm.testing import DriverRequest, FakeDriver
from pyvmm.virtio.block.device import Block

SIZE = 4 << 20
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2

#: How an image of each format begins.
HEADS = {
    "qcow2": b"QFI\xfb" + struct.pack(">I", 3),
    "qcow": b"QFI\xfb" + struct.pack(">I", 1),
    "qed": b"QED\0",
    "vmdk": b"KDMV",
    "vdi": bytes(0x40) + b"\x7f\x10\xda\xbe",
    "vhdx": b"vhdxfile",
    "vpc": b"conectix",
    "parallels": b"WithoutFreeSpace",
}


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def segment(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, count, flags)


class Bench:
    """The device, its driver and its image."""

    def __init__(
        self,
        path: Path,
        *,
        readonly: bool = False,
        direct: bool = False,
        features: int | None = None,
        **options: Any,
    ) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(os.urandom(SIZE))
        self.disk = RawDisk(str(path), readonly, direct)
        self.device = Block(self.disk, **options)
        self.driver = FakeDriver(self.device, features=features)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.close()

    @property
    def image(self) -> bytes:
        return self.path.read_bytes()

    def ask(
        self, readable: Sequence[bytes], writable: Sequence[int], *, queue: int = 0, indirect: bool = False
    ) -> tuple[int, bytes]:
        """Submit one request; its status byte, and the data before that."""
        answer = self.driver.request(queue, readable, writable, indirect=indirect)
        return answer[-1], answer[:-1]

    def read(self, sector: int, size: int) -> tuple[int, bytes]:
        return self.ask([header(IN, sector)], [size, 1])

    def write(self, sector: int, data: bytes) -> int:
        return self.ask([header(OUT, sector), data], [1])[0]

    def flush(self) -> int:
        return self.ask([header(FLUSH)], [1])[0]

    def served(self, requests: Sequence[tuple[Sequence[bytes], Sequence[int]]]) -> list[DriverRequest]:
        """Submit several requests with one kick and wait until all are completed."""
        ring = self.driver.queues[0]
        made = [ring.add(readable, writable) for readable, writable in requests]
        ring.kick()
        self.driver.run(lambda: [ring.collect(), all(request.done for request in made)][1])
        return made

    def batch(self, requests: Sequence[tuple[Sequence[bytes], Sequence[int]]]) -> list[bytes]:
        """The same; the data that each request got."""
        return [self.driver.queues[0].data(request) for request in self.served(requests)]
