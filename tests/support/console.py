"""A device that takes input from a backend, and a loop that is run until a condition holds."""

from __future__ import annotations

import os
import time


class Device:
    """A device that takes input while it has room, as the serial port does."""

    def __init__(self, room=16):
        self.received = b""
        self.room = room
        self.largest = 0
        self.readied = 0

    def receive(self, data):
        assert 0 < len(data) <= self.room
        self.largest = max(self.largest, len(data))
        self.room -= len(data)
        self.received += data

    def space(self):
        return self.room

    def attach(self, backend, loop):
        backend.on_ready = self.on_ready
        backend.attach(loop, self.receive, self.space)

    def on_ready(self):
        self.readied += 1


def until(loop, condition, limit=20.0):
    """Run *loop* until *condition()* holds; fails after *limit* seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "the condition never came"
        loop.run_once(0.05)


def drain(fd, size):
    """Exactly *size* bytes of *fd*, which blocks."""
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        assert part, "end of file came early"
        data += part
    return data
