"""The input and output halves every stream backend is made of."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm.backends.base import CharBackend
from pyvmm.backends.reader import DescriptorReader
from pyvmm.backends.writer import LIMIT, DescriptorWriter
from pyvmm.loop import Loop
from tests.support.console import Device, drain, until
from tests.support.process import resident


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fds = [reader, writer]
    yield fds
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def close(fds, index):
    os.close(fds[index])
    fds[index] = -1


def fill(writer, owner):
    """Write until the backend says that it is full; what was written."""
    written = 0
    while owner.ready:
        writer.write(b"x" * 1000)
        written += 1000
    return written


def available(fd):
    """How many bytes *fd* has, which are read."""
    os.set_blocking(fd, False)
    size = 0
    try:
        while data := os.read(fd, 1 << 20):
            size += len(data)
    except BlockingIOError:
        pass
    return size


@pytest.mark.parametrize("blocking", [False, True])
def test_output_when_the_reader_is_slow_waits_and_arrives_whole(loop, pipe, blocking):
    owner, device = CharBackend(), Device()
    owner.on_ready = device.on_ready
    writer = DescriptorWriter(owner)
    os.set_blocking(pipe[1], blocking)
    writer.open(loop, pipe[1], blocking)
    written = fill(writer, owner)
    assert not owner.ready
    data = []
    thread = threading.Thread(target=lambda: data.append(drain(pipe[0], written)))
    thread.start()
    until(loop, lambda: not thread.is_alive())
    assert data == [b"x" * written]
    assert (owner.ready, owner.dropped, device.readied) == (True, 0, 1)


def test_output_beyond_the_buffer_is_dropped_and_counted(loop, pipe):
    owner = CharBackend()
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    fill(writer, owner)
    before = owner.dropped
    writer.write(b"y" * LIMIT)
    writer.write(b"z" * 100)
    assert owner.dropped - before >= LIMIT - 4096

    available(pipe[0])  # what the pipe itself held; the loop moves the rest into it
    kept = 0
    while loop.run_once(0):
        kept += available(pipe[0])
    assert kept == LIMIT


def test_output_of_a_hundred_megabytes_to_nobody_keeps_memory_bounded(loop, pipe):
    owner = CharBackend()
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    fill(writer, owner)
    chunk = b"x" * 65536
    before = resident()
    for _ in range(1600):
        writer.write(chunk)
        loop.run_once(0)
    assert resident() - before < 1 << 20


def test_output_when_the_reader_leaves_is_dropped_and_told_from_the_loop(loop, pipe):
    owner, told = CharBackend(), []
    writer = DescriptorWriter(owner, lambda: told.append(threading.get_ident()))
    writer.open(loop, pipe[1])
    close(pipe, 0)
    thread = threading.Thread(target=writer.write, args=(b"lost",))
    thread.start()
    thread.join()
    assert told == []
    until(loop, lambda: told)
    assert told == [threading.get_ident()]
    assert (owner.dropped, owner.ready) == (4, True)


def test_output_that_waits_when_the_reader_leaves_makes_the_backend_ready(loop, pipe):
    owner, device = CharBackend(), Device()
    owner.on_ready = device.on_ready
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    fill(writer, owner)
    loop.run_once(0)
    close(pipe, 0)
    until(loop, lambda: owner.ready)
    assert device.readied == 1
    assert owner.dropped > 0


@pytest.mark.parametrize("blocking", [False, True])
def test_offer_takes_what_fits_keeps_nothing_and_tells_when_there_is_room(loop, pipe, blocking):
    owner, device = CharBackend(), Device()
    owner.on_ready = device.on_ready
    writer = DescriptorWriter(owner)
    os.set_blocking(pipe[1], blocking)
    writer.open(loop, pipe[1], blocking)
    data = memoryview(os.urandom(100_000))
    taken = writer.offer([data[:7], data[7:]])
    assert 0 < taken < len(data)
    assert (owner.ready, writer.offer([data[taken:]])) == (False, 0)
    loop.run_once(0)
    assert drain(pipe[0], taken) == data[:taken]
    until(loop, lambda: owner.ready)
    assert (writer.offer([data[taken:]]), device.readied, owner.dropped) == (100_000 - taken, 1, 0)


def test_offer_waits_for_what_was_written_before_it(loop, pipe):
    owner = CharBackend()
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    writer.write(b"x" * 70_000)
    assert writer.offer([memoryview(b"after")]) == 0
    loop.run_once(0)
    assert drain(pipe[0], 65_536) == b"x" * 65_536
    until(loop, lambda: owner.ready)
    assert writer.offer([memoryview(b"after")]) == 5
    assert drain(pipe[0], 4_469) == b"x" * 4_464 + b"after"


def test_offer_to_a_reader_that_has_left_counts_as_taken_and_dropped(loop, pipe):
    owner, told = CharBackend(), []
    writer = DescriptorWriter(owner, lambda: told.append(True))
    writer.open(loop, pipe[1])
    close(pipe, 0)
    assert writer.offer([memoryview(b"lost")]) == 4
    until(loop, lambda: told)
    assert writer.offer([memoryview(b"too")]) == 3
    assert (owner.dropped, owner.ready) == (7, True)


def test_offer_that_waits_when_the_reader_leaves_makes_the_backend_ready(loop, pipe):
    owner, device = CharBackend(), Device()
    owner.on_ready = device.on_ready
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    writer.offer([memoryview(bytes(100_000))])
    loop.run_once(0)
    close(pipe, 0)
    until(loop, lambda: owner.ready)
    assert device.readied == 1


def test_close_with_patience_writes_what_waits(loop, pipe):
    owner = CharBackend()
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    written = fill(writer, owner)
    data = []
    thread = threading.Thread(target=lambda: data.append(drain(pipe[0], written)))
    thread.start()
    writer.close(patience=20)
    thread.join()
    assert len(data[0]) == written
    assert owner.dropped == 0


def test_close_with_patience_gives_up_when_nobody_reads(loop, pipe):
    owner = CharBackend()
    writer = DescriptorWriter(owner)
    writer.open(loop, pipe[1])
    fill(writer, owner)
    writer.close(patience=0.01)
    assert owner.dropped > 0
    assert owner.ready


def test_input_is_given_as_room_allows_and_in_order(loop, pipe):
    device = Device(room=16)
    reader = DescriptorReader(loop, device.receive, device.space)
    reader.open(pipe[0])
    os.write(pipe[1], bytes(range(100)))
    loop.run_once(5)
    assert device.received == bytes(range(16))
    device.room = 1000
    reader.resume()
    loop.run_once(5)
    assert device.received == bytes(range(100))


def test_input_while_there_is_no_room_stays_in_the_kernel(loop, pipe):
    device = Device(room=0)
    reader = DescriptorReader(loop, device.receive, device.space)
    reader.open(pipe[0])
    try:
        for _ in range(32):
            os.write(pipe[1], b"x" * 4096)
            loop.run_once(0)
        pytest.fail("128 KiB found a place")
    except BlockingIOError:
        pass
    assert loop.run_once(0) == 0  # and the loop does not spin


def test_input_of_a_hundred_megabytes_grows_memory_by_less_than_one_percent(loop, pipe):
    device = Device(room=4096)
    reader = DescriptorReader(loop, device.receive, device.space)
    chunk = b"x" * 32768
    total = 100 << 20
    sent = 0
    taken = 0
    reader.open(pipe[0])
    before = resident()
    while taken < total:
        if sent < total:
            try:
                sent += os.write(pipe[1], chunk)
            except BlockingIOError:
                pass
        taken += len(device.received)
        device.received, device.room = b"", 4096
        reader.resume()
        loop.run_once(0)
    assert resident() - before < max(before // 100, 256 << 10)


def test_input_when_the_writer_leaves_is_delivered_before_the_end(loop, pipe):
    device, ended = Device(room=2), []
    reader = DescriptorReader(loop, device.receive, device.space, lambda: ended.append(device.received))
    reader.open(pipe[0])
    os.write(pipe[1], b"the last bytes")
    close(pipe, 1)
    loop.run_once(5)
    device.room = 100
    reader.resume()
    until(loop, lambda: ended)
    assert ended == [b"the last bytes"]
    assert loop.run_once(0) == 0


@pytest.mark.parametrize("content", [b"", b"x" * 10_000])
def test_input_from_a_regular_file_is_read_to_its_end(loop, tmp_path, content):
    path = tmp_path / "input"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    device, ended = Device(), []
    reader = DescriptorReader(loop, device.receive, device.space, lambda: ended.append(True))
    reader.open(fd)
    while not ended:
        loop.run_once(5)
        device.room = 16
        reader.resume()
    assert device.received == content
    os.close(fd)


def test_sifted_input_is_read_even_without_room_and_bounded(loop, pipe):
    device, sifted = Device(room=0), []

    def sift(data):
        sifted.append(len(data))
        return data

    reader = DescriptorReader(loop, device.receive, device.space, sift=sift, limit=10_000)
    reader.open(pipe[0])
    for _ in range(5):
        os.write(pipe[1], b"x" * 4096)
        loop.run_once(5)
    assert sum(sifted) == 5 * 4096
    assert reader.dropped == 5 * 4096 - 10_000
