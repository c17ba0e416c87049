"""A device for tests of confinement: it does what its driver says, and answers what came of it.

A request is a text: ``acts`` (those of tests/support/sandbox_acts.py), ``read PATH``, ``write PATH``,
``connect PATH`` or ``raise PATH``, which lets the error through.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.ring.chain import Chain
from tests.support.sandbox_acts import tried

IDENTIFIER = 42
#: Bytes of an answer.
ROOM = 16 << 10


class Reaching(VirtioDevice):
    """Declares *reach*, paths with a colon between two."""

    device_id = IDENTIFIER
    name = "reaching"
    queue_sizes = (8,)

    def __init__(self, reach: str = "") -> None:
        super().__init__()
        self.paths = [path for path in reach.split(":") if path]

    def handle(self, queue: int, chain: Chain) -> None:
        verb, _, path = chain.read(chain.readable_size).decode().partition(" ")
        if verb == "raise":
            Path(path).read_bytes()
        try:
            answer = _done(verb, path)
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        chain.write(answer.encode())


def _done(verb: str, path: str) -> str:
    if verb == "acts":
        return json.dumps(tried())
    if verb == "read":
        return Path(path).read_text()
    if verb == "write":
        made = Path(path)
        made.with_suffix(".new").write_text("written")
        os.rename(made.with_suffix(".new"), made)
        return ",".join(sorted(os.listdir(made.parent)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        return sock.recv(100).decode()
