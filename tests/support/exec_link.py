"""A host session of the exec protocol joined to a file descriptor, for tests."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest

from pyvmm.exec.session import EXIT, LOST, READY, STDERR, STDOUT, ExecSession

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "firmware" / "guest" / "init"
LIMIT = 60


class Link:
    """A session and the file descriptor it speaks over; every wait has a limit."""

    def __init__(self, fd, session=None):
        self.fd = fd
        self.session = session or ExecSession()
        self.unsent = b""
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.events = []

    def turn(self, deadline):
        """Take what the guest said, or send a piece of what is to be sent, whichever can be done."""
        self.unsent += self.session.outgoing()
        writing = [self.fd] if self.unsent else []
        readable, writable, _ = select.select([self.fd], writing, [], max(0, deadline - time.monotonic()))
        if readable:
            self.take()
        if writable:
            self.unsent = self.unsent[os.write(self.fd, self.unsent[:4096]) :]
        if not readable and not writable:
            pytest.fail(f"the guest hangs; so far {self.stdout[-200:]!r} {self.stderr[-200:]!r}")

    def take(self):
        for event, value in self.session.feed(os.read(self.fd, 65536)):
            self.events.append((event, value))
            if event == STDOUT:
                self.stdout += value
                self.session.consumed(len(value))
            elif event == STDERR:
                self.stderr += value
                self.session.consumed(len(value))

    def until(self, reached, limit=LIMIT):
        deadline = time.monotonic() + limit
        while not reached():
            self.turn(deadline)

    def until_ready(self, limit=LIMIT):
        self.until(lambda: any(event == READY for event, _ in self.events), limit)

    def run(self, request, stdin=b"", limit=LIMIT):
        """Run to its end; (status, stdout, stderr)."""
        self.stdout, self.stderr, self.events = bytearray(), bytearray(), []
        self.session.run(request)
        return self.finish(stdin, limit)

    def finish(self, stdin=b"", limit=LIMIT):
        rest = memoryview(stdin)
        ended = False

        def reached():
            nonlocal rest, ended
            rest = rest[self.session.send_stdin(rest) :]
            if not rest and not ended:
                ended = True
                self.session.eof()
            return any(event in (EXIT, LOST) for event, _ in self.events)

        self.until(reached, limit)
        [status] = [value for event, value in self.events if event == EXIT]
        return status, bytes(self.stdout), bytes(self.stderr)
