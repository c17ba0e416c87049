"""The NBD client against a server that answers as it is told to."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from pyvmm.backends.disk.base import DiskError
from pyvmm.backends.disk.nbd import NbdDisk

SIZE = 1 << 20
FLUSH, FUA, TRIM, ZEROES = 1 << 2, 1 << 3, 1 << 5, 1 << 6


class Server(threading.Thread):
    """Speaks for one client, and keeps (command, flags, offset, length) of every request."""

    def __init__(self, flags: int = 1, greeting: bytes = b"NBDMAGICIHAVEOPT\0\3", size: int = SIZE) -> None:
        super().__init__(daemon=True)
        self.client, self._link = socket.socketpair()
        self.requests: list[tuple[int, int, int, int]] = []
        self.data = bytearray(SIZE)
        self.problem = 0
        #: Replaces the answer to the next request.
        self.answer: Callable[[int], bytes] | None = None
        self._greeting, self._size, self._flags = greeting, size, flags
        self.start()

    def finish(self) -> list[tuple[int, int, int, int]]:
        """What was asked until the client said goodbye."""
        self.join(10)
        assert self.requests.pop()[0] == 2
        return self.requests

    def run(self) -> None:
        try:
            self._serve()
        except OSError:
            pass  # the client hung up on us

    def _serve(self) -> None:
        with self._link as link, link.makefile("rb") as stream:
            link.sendall(self._greeting)
            if len(stream.read(4 + 16)) < 20:
                return
            zeroes = b"" if self._greeting[-1] & 2 else bytes(124)
            link.sendall(struct.pack(">QH", self._size, self._flags) + zeroes)
            while len(head := stream.read(28)) == 28:
                _, flags, command, handle, offset, length = struct.unpack(">IHHQQI", head)
                self.requests.append((command, flags, offset, length))
                if command == 1:
                    self.data[offset : offset + length] = stream.read(length)
                if command == 2:
                    return
                reply = struct.pack(">IIQ", 0x67446698, self.problem, handle)
                if command == 0 and not self.problem:
                    reply += self.data[offset : offset + length]
                if self.answer is not None:
                    reply = self.answer(handle)
                link.sendall(reply)
                if not reply:
                    return


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(1 | FLUSH | FUA | TRIM | ZEROES)
    yield server
    server.client.close()
    server.join(10)


def test_written_data_is_read_back(server: Server) -> None:
    disk = NbdDisk(server.client, "image")
    data = bytes(range(256)) * 16
    got = [memoryview(bytearray(1000)), memoryview(bytearray(3096))]

    disk.write([memoryview(data)[:100], memoryview(data)[100:]], 512, 4096, False)
    disk.read(got, 512, 4096)
    disk.close()

    assert (disk.size, b"".join(got)) == (SIZE, data)
    assert server.finish() == [(1, 0, 512, 4096), (0, 0, 512, 4096)]


def test_durable_write_carries_fua(server: Server) -> None:
    disk = NbdDisk(server.client, "image")

    disk.write([memoryview(bytes(512))], 0, 512, True)
    disk.flush()
    disk.close()

    assert server.finish() == [(1, 1, 0, 512), (3, 0, 0, 0)]


def test_durable_write_without_fua_is_followed_by_a_flush() -> None:
    server = Server(1 | FLUSH)
    disk = NbdDisk(server.client, "image")

    disk.write([memoryview(bytes(512))], 0, 512, True)
    disk.close()

    assert [request[0] for request in server.finish()] == [1, 3]


def test_zeroes_and_discard_are_asked_for(server: Server) -> None:
    disk = NbdDisk(server.client, "image")

    disk.write_zeroes(0, 4096, False, False)
    disk.write_zeroes(0, 4096, True, True)
    disk.discard(4096, 8192)
    disk.close()

    assert server.finish() == [(6, 2, 0, 4096), (6, 1, 0, 4096), (4, 0, 4096, 8192)]


def test_zeroes_when_the_server_makes_none_are_written_and_discard_is_refused() -> None:
    server = Server(1)
    server.data[:] = b"x" * SIZE
    disk = NbdDisk(server.client, "image")

    disk.write_zeroes(512, 1024, True, False)
    with pytest.raises(OSError) as raised:
        disk.discard(0, 512)
    disk.close()

    assert raised.value.errno == errno.EOPNOTSUPP
    assert server.data[:2048] == b"x" * 512 + bytes(1024) + b"x" * 512


def test_readonly_export_is_readonly() -> None:
    disk = NbdDisk(Server(1 | 2).client, "image")
    disk.close()

    assert disk.readonly


def test_server_without_no_zeroes_is_understood() -> None:
    server = Server(1, b"NBDMAGICIHAVEOPT\0\1")
    disk = NbdDisk(server.client, "image")

    disk.read([memoryview(bytearray(512))], 0, 512)
    disk.close()

    assert server.finish() == [(0, 0, 0, 512)]


def test_error_of_the_server_is_the_requests_and_the_next_one_goes_on(server: Server) -> None:
    disk = NbdDisk(server.client, "image")
    server.problem = errno.ENOSPC

    with pytest.raises(OSError) as raised:
        disk.write([memoryview(bytes(512))], 0, 512, False)
    server.problem = 0
    disk.write([memoryview(bytes(512))], 0, 512, False)
    disk.close()

    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "answer",
    [
        lambda handle: b"",
        lambda handle: struct.pack(">IIQ", 0x12345678, 0, handle),
        lambda handle: struct.pack(">IIQ", 0x67446698, 0, handle + 1),
    ],
)
def test_server_that_hangs_up_or_answers_nonsense_fails_this_and_every_later_request(
    server: Server, answer: Callable[[int], bytes]
) -> None:
    disk = NbdDisk(server.client, "image")
    server.answer = answer

    for _ in range(2):
        with pytest.raises(OSError):
            disk.read([memoryview(bytearray(512))], 0, 512)
    disk.close()

    assert len(server.requests) == 1


@pytest.mark.parametrize("greeting", [b"SSH-2.0-something-or-other", b"NBDMAGIC" + bytes(10)])
def test_greeting_that_is_not_nbd_is_refused(greeting: bytes) -> None:
    with pytest.raises(DiskError, match="does not speak"):
        NbdDisk(Server(greeting=greeting).client, "image")


@pytest.mark.parametrize("size", [0, 1000])
def test_size_that_is_no_disk_is_refused(size: int) -> None:
    with pytest.raises(DiskError, match=f"has {size} bytes"):
        NbdDisk(Server(size=size).client, "image")
