"""A client of the exec protocol joined to a file descriptor, for tests."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest

from pyvmm.exec.client import ExecClient

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "firmware" / "guest" / "init"
LIMIT = 60


class Command:
    """A run, what it has written so far, and what is still to be written to it.

    *stdin* of None is an input that stays open; *consume* is whether its output is taken at once.
    """

    def __init__(self, link, request, stdin, consume):
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.consume = consume
        self.rest = memoryview(stdin or b"")
        self.open = stdin is None
        self.run = link.client.start(
            request, on_stdout=self.take_stdout, on_stderr=self.take_stderr, on_room=self.feed
        )
        self.feed(self.run)

    def take_stdout(self, run, data):
        self.stdout += data
        if self.consume:
            run.consumed(len(data))

    def take_stderr(self, run, data):
        self.stderr += data
        if self.consume:
            run.consumed(len(data))

    def feed(self, run):
        while self.rest and (taken := run.write(self.rest)):
            self.rest = self.rest[taken:]
        if not self.rest and not self.open:
            self.open = True
            run.eof()

    @property
    def result(self):
        """(status, stdout, stderr) once it has ended."""
        return self.run.status, bytes(self.stdout), bytes(self.stderr)


class Link:
    """A client and the file descriptor it speaks over; every wait has a limit."""

    def __init__(self, fd):
        self.fd = fd
        self.unsent = bytearray()
        #: How often the guest said that it is ready.
        self.greeted = 0
        self.client = ExecClient(self.unsent.extend, on_ready=self.count)
        self.client.connect()

    def count(self):
        self.greeted += 1

    def turn(self, deadline):
        """Take what the guest said, or send a piece of what is to be sent, whichever can be done."""
        writing = [self.fd] if self.unsent else []
        readable, writable, _ = select.select([self.fd], writing, [], max(0, deadline - time.monotonic()))
        if readable:
            self.client.receive(os.read(self.fd, 65536))
        if writable:
            del self.unsent[: os.write(self.fd, self.unsent[:4096])]
        if not readable and not writable:
            pytest.fail(f"the guest hangs with {self.client.running} commands")

    def until(self, reached, limit=LIMIT):
        deadline = time.monotonic() + limit
        while not reached():
            self.turn(deadline)

    def until_ready(self, limit=LIMIT):
        self.until(lambda: self.client.ready, limit)

    def start(self, request, stdin=None, *, consume=True):
        return Command(self, request, stdin, consume)

    def finish(self, command, limit=LIMIT):
        """Wait for its end; (status, stdout, stderr)."""
        self.until(lambda: command.run.ended, limit)
        assert command.run.error is None, command.run.error
        return command.result

    def run(self, request, stdin=b"", limit=LIMIT):
        """Run to its end; (status, stdout, stderr)."""
        return self.finish(self.start(request, stdin), limit)
