"""Backends over several machines: opened once, attached to one loop and device, detached, attached again."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.backends.base import BackendError, CharBackend
from pyvmm.backends.fifo import Fifo
from pyvmm.backends.file import OutputFile
from pyvmm.backends.host_objects import HostObject, HostObjects
from pyvmm.backends.net.link import Link
from pyvmm.backends.net.pcap import Capture
from pyvmm.backends.pty import Pty
from pyvmm.backends.terminal import Terminal
from pyvmm.backends.unix import UnixSocket
from pyvmm.errors import StartError
from pyvmm.loop import Loop
from tests.support.console import Device, drain, until

CHUNK = bytes(range(256)) * 16


class End:
    """The other end of a backend: a descriptor to read its output from, one to write its input to."""

    def __init__(self, backend: CharBackend, output: int, input_: int) -> None:
        self.backend = backend
        self.output = output
        self.input = input_


def of_pty(folder: Path) -> tuple[CharBackend, Callable[[], tuple[int, int]]]:
    backend = Pty()

    def opened() -> tuple[int, int]:
        slave = os.open(backend.path, os.O_RDWR | os.O_NOCTTY)
        return slave, os.dup(slave)

    return backend, opened


def of_socket(folder: Path) -> tuple[CharBackend, Callable[[], tuple[int, int]]]:
    def opened() -> tuple[int, int]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "socket"))
            return os.dup(client.fileno()), os.dup(client.fileno())

    return UnixSocket(str(folder / "socket")), opened


def of_pipe(folder: Path) -> tuple[CharBackend, Callable[[], tuple[int, int]]]:
    def opened() -> tuple[int, int]:
        return os.open(folder / "pipe.out", os.O_RDONLY), os.open(folder / "pipe.in", os.O_WRONLY)

    return Fifo(str(folder / "pipe")), opened


def of_stdio(folder: Path) -> tuple[CharBackend, Callable[[], tuple[int, int]]]:
    stdin, our_output = os.pipe()
    our_input, stdout = os.pipe()
    return Terminal(stdin=stdin, stdout=stdout), lambda: (our_input, our_output)


@pytest.fixture(params=[of_pty, of_socket, of_pipe, of_stdio])
def end(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[End]:
    """A backend that was opened and has no machine yet."""
    backend, opened = request.param(tmp_path)
    backend.open()
    output, input_ = opened()
    yield End(backend, output, input_)
    backend.close()
    os.close(output)
    os.close(input_)


def test_bytes_both_ways_that_one_machine_left_are_the_next_ones(end: End) -> None:
    backend, first, second = end.backend, Device(room=4), Device(room=100)
    with Loop() as loop:
        first.attach(backend, loop)
        backend.write(b"1")  # a pty, a socket: dropped until the loop has found the program
        os.write(end.input, b"abcdefgh")
        until(loop, lambda: first.received == b"abcd")
        assert backend.connected
        before = backend.dropped
        sent = b""
        while backend.ready:  # until the kernel takes no more, and then until the buffer is full
            backend.write(CHUNK)
            sent += CHUNK
        backend.unread(b"cd")  # what its guest had not read
        backend.detach()
    with Loop() as loop:
        second.attach(backend, loop)
        until(loop, lambda: len(second.received) == 6)
        read = b""
        os.set_blocking(end.output, False)

        def whole() -> bool:
            nonlocal read
            with contextlib.suppress(BlockingIOError):
                read += os.read(end.output, 1 << 20)
            return len(read) >= len(sent) and read.endswith(sent)

        until(loop, whole)

        assert second.received == b"cdefgh"
        assert read in (sent, b"1" + sent)
        assert backend.ready
        assert backend.dropped == before


def test_input_that_came_between_two_machines_is_the_next_ones(end: End) -> None:
    backend, device = end.backend, Device(room=100)
    with Loop() as loop:
        Device().attach(backend, loop)
        until(loop, lambda: backend.connected)
        backend.detach()
        os.write(end.input, b"between")
        loop.run_once(0)
    with Loop() as loop:
        device.attach(backend, loop)
        until(loop, lambda: device.received == b"between")


def test_loop_that_a_backend_has_left_knows_nothing_of_it(end: End) -> None:
    with Loop() as first, Loop() as second:
        left, device = Device(room=100), Device(room=100)
        left.attach(end.backend, first)
        until(first, lambda: end.backend.connected)
        end.backend.detach()
        end.backend.detach()
        device.attach(end.backend, second)
        os.write(end.input, b"input")
        until(second, lambda: device.received == b"input")
        first.run_once(0)

        assert left.received == b""


def test_output_that_was_buffered_at_the_end_is_written_by_close(end: End) -> None:
    with Loop() as loop:
        Device().attach(end.backend, loop)
        until(loop, lambda: end.backend.connected)
        end.backend.write(b"the last bytes")
        end.backend.detach()

        assert drain(end.output, 14) == b"the last bytes"


def test_program_that_left_between_two_machines_is_missed_in_the_next(tmp_path: Path) -> None:
    backend, opened = of_pty(tmp_path)
    backend.open()
    told: list[bool] = []
    with Loop() as loop:
        backend.on_connect = lambda: told.append(backend.connected)
        Device().attach(backend, loop)
        ends = opened()
        until(loop, lambda: told == [True])
        backend.detach()
        for one in ends:
            os.close(one)
    with Loop() as loop:
        Device().attach(backend, loop)
        until(loop, lambda: told == [True, False])
        ends = opened()
        until(loop, lambda: told == [True, False, True])
        for one in ends:
            os.close(one)
    backend.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: UnixSocket(path),
        lambda path: Fifo(f"{path}/pipe"),
        lambda path: OutputFile(path),
    ],
)
def test_path_that_cannot_be_had_is_reported_by_open(
    tmp_path: Path, make: Callable[[str], HostObject]
) -> None:
    (tmp_path / "pipe.out").write_bytes(b"")
    backend = make(str(tmp_path))
    with pytest.raises(BackendError, match=str(tmp_path)):
        backend.open()
    backend.close()


def test_link_stays_connected_from_machine_to_machine(tmp_path: Path) -> None:
    ends = [Link(str(tmp_path / "link")), Link(str(tmp_path / "link"))]
    for end in ends:
        end.open()
    with Loop() as loop:
        for end in ends:
            end.attach(loop)
        until(loop, lambda: all(end.carrier for end in ends))
        ends[0].detach()
    frame = bytearray(20)
    ends[1].send(0, [memoryview(bytes(range(20)))])  # between two machines
    with Loop() as loop:
        ends[0].attach(loop)
        loop.run_once(0)

        assert ends[0].carrier
        assert ends[0].receive(0, [memoryview(frame)]) == 20
    for end in ends:
        end.close()
    assert list(tmp_path.iterdir()) == []


def test_link_whose_other_end_left_between_two_machines_is_joined_again(tmp_path: Path) -> None:
    first, second = Link(str(tmp_path / "link")), Link(str(tmp_path / "link"))
    with Loop() as loop:
        first.attach(loop)
        second.attach(loop)
        until(loop, lambda: first.carrier and second.carrier)
        first.detach()
        second.close()
        second = Link(str(tmp_path / "link"))
        second.attach(loop)
        first.attach(loop)
        second.send(0, [memoryview(bytes(20))])
        frame = bytearray(20)

        def received() -> bool:
            try:
                return first.receive(0, [memoryview(frame)]) == 20
            except BlockingIOError:
                return False

        until(loop, received)
        first.close()
        second.close()


def test_capture_has_the_frames_of_every_machine(tmp_path: Path) -> None:
    capture = Capture(str(tmp_path / "frames"))
    for number in range(3):
        capture.start()
        capture.frame(bytes([number]) * 60)
        capture.detach()
    capture.close()

    data = (tmp_path / "frames").read_bytes()
    assert [data[24 + 16 + number * 76] for number in range(3)] == [0, 1, 2]
    assert len(data) == 24 + 3 * 76


# The keeper


class Recorded(HostObject):
    def __init__(self, calls: list[str], name: str, fails: bool = False) -> None:
        self.calls, self.name, self.fails = calls, name, fails

    def open(self) -> None:
        self.calls.append(f"open {self.name}")
        if self.fails:
            raise StartError("it cannot be opened")

    def detach(self) -> None:
        self.calls.append(f"detach {self.name}")

    def close(self) -> None:
        self.calls.append(f"close {self.name}")


def test_host_objects_are_opened_once_and_closed_by_the_keeper_alone() -> None:
    calls: list[str] = []
    keeper = HostObjects()
    for _ in range(2):
        one = keeper.open("one", lambda: Recorded(calls, "one"))
        two = keeper.open("two", lambda: Recorded(calls, "two"))
        two.close_unless_kept()
        one.close_unless_kept()
    keeper.close()
    keeper.close()

    machine = ["detach two", "detach one"]
    assert calls == ["open one", "open two", *machine, *machine, "close two", "close one"]


def test_host_object_that_cannot_be_opened_is_closed_with_the_others() -> None:
    calls: list[str] = []
    keeper = HostObjects()
    with pytest.raises(StartError):
        keeper.open("one", lambda: Recorded(calls, "one", fails=True))
    keeper.close()

    assert calls == ["open one", "close one"]


def test_host_object_without_a_keeper_is_closed_by_its_device() -> None:
    calls: list[str] = []
    Recorded(calls, "one").close_unless_kept()

    assert calls == ["detach one", "close one"]
