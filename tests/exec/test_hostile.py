"""Bytes of a hostile host and of a hostile guest: bounded time, bounded memory, and nothing else breaks."""

from __future__ import annotations

import itertools
import os
import random
import time
import tracemalloc
import zlib

import pytest

from pyvmm.exec import channel as exec_channel
from pyvmm.exec import frames
from pyvmm.exec.channel import ExecChannel, ExecChannelError
from pyvmm.exec.client import ExecClient, ExecProtocolError
from pyvmm.exec.request import EXIT_REFUSED, Request
from pyvmm.loop import Loop
from tests.support.exec_link import Link

#: Seconds of processor time for a megabyte of the worst that a guest can send.
LIMIT = 3.0
MEGABYTE = 1 << 20
HOST_TYPES = range(0x0C)
GUEST_TYPES = range(0x80, 0x88)


def overlapping_headers(size):
    """Headers with the right checksum, each of which claims that much follows; each payload is wrong."""
    header = frames.encode(frames.GUEST_STDOUT, 1, bytes(frames.PAYLOAD_MAX))[:8]
    return header * (size // len(header))


def headers_between_frames(size):
    """The same, with a right frame after every fifteen."""
    piece = overlapping_headers(15 * 8) + frames.encode(frames.GUEST_STDOUT, 1)
    return piece * (size // len(piece))


WORST = {
    "marks": b"\xf6\x9d" * (MEGABYTE // 2),
    "half marks": b"\xf6" * MEGABYTE,
    "headers that claim much": overlapping_headers(MEGABYTE),
    "headers that claim much between frames": headers_between_frames(MEGABYTE),
    "headers that claim nothing": frames.encode(frames.GUEST_STDOUT, 1)[:8] * (MEGABYTE // 8),
    "empty frames": frames.encode(frames.GUEST_STDOUT, 1) * (MEGABYTE // 12),
    "zeros": bytes(MEGABYTE),
}


@pytest.mark.parametrize("kind", WORST)
def test_decoder_when_fed_the_worst_takes_bounded_time(kind):
    decoder = frames.Decoder()
    data = WORST[kind]
    begun = time.process_time()
    for at in range(0, len(data), 65536):
        decoder.feed(data[at : at + 65536])
    assert time.process_time() - begun < LIMIT


def test_decoder_when_wrong_headers_lie_between_frames_looks_at_few_bytes_again(monkeypatch):
    looked = 0

    def counted(data):
        nonlocal looked
        looked += len(data)
        return zlib.crc32(data)

    monkeypatch.setattr(frames, "crc32", counted)
    decoder = frames.Decoder()
    data = WORST["headers that claim much between frames"]
    for at in range(0, len(data), 65536):
        decoder.feed(data[at : at + 65536])
    assert looked < 3 * len(data)


@pytest.mark.parametrize("kind", WORST)
def test_decoder_when_fed_the_worst_keeps_no_more_than_a_frame(kind):
    decoder = frames.Decoder()
    data = WORST[kind][: 3 * frames.PAYLOAD_MAX]  # an allocation that is traced takes ten times as long
    most = 0
    tracemalloc.start()
    try:
        for at in range(0, len(data), frames.PAYLOAD_MAX):
            decoder.feed(data[at : at + frames.PAYLOAD_MAX])
            most = max(most, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # Room that a bytearray has beyond its length is an eighth.
    assert most <= (frames.PAYLOAD_MAX + 12) * 9 // 8 + 4096


def test_decoder_finds_the_next_frame_after_the_worst():
    decoder = frames.Decoder()
    for data in WORST.values():
        decoder.feed(data[:200_000])
        decoder.feed(bytes(frames.PAYLOAD_MAX + 12))
        found = decoder.feed(frames.encode(7, 7, b"found") + bytes(8))
        assert [frame.payload for frame in found] == [b"found"], data[:8]


def random_frames(seed, types, count):
    """Frames of any kind, wrong ones among them, and noise."""
    source = random.Random(seed)
    for _ in range(count):
        payload = source.randbytes(source.choice([0, 1, 3, 4, 8, 12, 16, 200, 16384]))
        data = frames.encode(source.choice(types), source.randrange(6), payload)
        if source.random() < 0.2:
            at = source.randrange(len(data))
            data = data[:at] + source.randbytes(source.randrange(4)) + data[at + source.randrange(4) :]
        yield data


@pytest.mark.parametrize("seed", range(20))
def test_client_when_the_guest_is_hostile_only_raises_what_it_documents(seed):
    sent = bytearray()
    client = ExecClient(sent.extend)
    client.connect()
    nonce = sent[12:16]
    client.receive(frames.encode(frames.GUEST_HELLO, 0, b"\2\0\0\0" + nonce + b"\0\1\0\0\0\1\0\0"))
    for _ in range(4):
        client.start(Request(["cat"]), on_room=lambda run: run.write(b"x" * 1000))
    begun = time.process_time()
    for data in random_frames(seed, GUEST_TYPES, 300):
        try:
            client.receive(data)
        except ExecProtocolError:
            client.disconnect("the guest is hostile")
            client.connect()
            nonce = sent[-4 - 4 : -4]
            client.receive(frames.encode(frames.GUEST_HELLO, 0, b"\2\0\0\0" + nonce + b"\0\1\0\0\0\1\0\0"))
    assert time.process_time() - begun < LIMIT


def test_guest_that_greets_for_ever_and_reads_nothing_is_an_error():
    channel = ExecChannel()
    with Loop() as loop:
        channel.attach(loop, lambda data: False, lambda: 0)
        client = ExecClient(channel.send)
        client.connect()
        greeting = frames.encode(frames.GUEST_HELLO, 0, b"\2" + bytes(15))

        def greet():
            for _ in range(300_000):
                client.receive(greeting)

        with pytest.raises(ExecChannelError, match="unread"):
            greet()


def test_greetings_that_come_at_once_are_answered_once():
    sent = []
    client = ExecClient(sent.append)
    client.connect()
    client.receive(frames.encode(frames.GUEST_HELLO, 0, b"\2" + bytes(15)) * 1000)
    client.receive(frames.encode(frames.GUEST_HELLO, 0, b"\2" + bytes(15)))
    assert len(sent) == 3
    assert {len(data) for data in sent} == {len(sent[0])}


def test_guest_that_sends_where_it_has_to_wait_is_dropped_in_the_end_and_counted():
    channel = ExecChannel()
    got = []
    channel.receiver = got.append
    with Loop() as loop:
        channel.attach(loop, lambda data: False, lambda: 0)
        for _ in range(8):
            channel.write(bytes(MEGABYTE))
        while loop.run_once(0):
            pass
        assert sum(map(len, got)) == 3 * MEGABYTE
        assert channel.dropped == 5 * MEGABYTE
        channel.write(b"more")
        loop.run_once()
    assert got[-1] == b"more"


def test_megabytes_of_a_guest_are_handled_over_many_turns(monkeypatch):
    now = iter(range(1 << 20))
    monkeypatch.setattr(exec_channel, "monotonic", lambda: next(now) * exec_channel.TURN * 0.4)
    channel = ExecChannel()
    got = []
    channel.receiver = got.append
    data = random.Random(1).randbytes(MEGABYTE)
    with Loop() as loop:
        channel.attach(loop, lambda data: False, lambda: 0)
        for at in range(0, len(data), 100_000):
            channel.write(data[at : at + 100_000])
        turns = []
        while loop.run_once(0):
            turns.append(sum(map(len, got)))
    longest = max(after - before for before, after in itertools.pairwise([0, *turns]))
    assert longest <= 32 << 10
    assert b"".join(got) == data


def test_bytes_of_a_guest_after_those_that_broke_the_protocol_are_handled(monkeypatch):
    channel = ExecChannel()
    got = []

    def receive(data):
        if data.startswith(b"bad"):
            raise ExecProtocolError("the guest is hostile")
        got.append(data)

    channel.receiver = receive
    errors = []
    with Loop() as loop:
        loop.on_error = errors.append
        channel.attach(loop, lambda data: False, lambda: 0)
        channel.write(b"bad")
        channel.write(b"good")
        while loop.run_once(0):
            pass
    assert got == [b"good"]
    assert [type(error) for error in errors] == [ExecProtocolError]


@pytest.mark.parametrize("seed", range(8))
def test_server_when_the_host_is_hostile_serves_the_next_one(channel, seed):
    fd, process, _ = channel
    link = Link(fd)
    link.until_ready()
    for data in random_frames(seed, [type for type in HOST_TYPES if type != frames.HOST_POWER], 150):
        link.unsent += data
    # What a frame that was cut off still lacks, then the next host.
    link.unsent += bytes(frames.PAYLOAD_MAX + 12)
    link.until(lambda: not link.unsent)
    assert process.poll() is None
    after = Link(fd)
    assert after.run(Request(["cat"]), b"served") == (0, b"served", b"")


def test_requests_beyond_the_limit_are_refused_and_say_how_many_there_may_be(channel):
    fd, _, _ = channel
    link = Link(fd)
    running = [link.start(Request(["cat"])) for _ in range(255)]
    link.until(lambda: all(command.run.room or command.run.ended for command in running))
    refused = [command for command in running if command.run.ended]
    for command in refused:
        assert command.run.status == EXIT_REFUSED
        assert b"commands at a time" in command.stderr
    for command in running:
        if command not in refused:
            command.run.eof()
    link.until(lambda: all(command.run.ended for command in running))
    assert link.run(Request(["echo", "after"]))[1] == b"after\n"


def test_answers_to_a_flood_of_wrong_requests_all_come(link):
    # More answers than fit into the server's buffer.
    wrong = Request(["x"])
    wrong.body = b"wrong"
    for _ in range(20):
        started = [link.start(wrong) for _ in range(200)]
        link.until(lambda started=started: all(command.run.ended for command in started))
        assert {command.run.status for command in started} == {EXIT_REFUSED}


def test_server_when_the_host_ignores_its_credit_loses_input_and_nothing_else(channel):
    fd, _, _ = channel
    link = Link(fd)
    deaf = link.start(Request.shell("read line; echo $line; exec sleep 1000"))
    link.until(lambda: deaf.run.room)
    for _ in range(40):
        link.unsent += frames.encode(frames.HOST_STDIN, deaf.run.number, os.urandom(16384))
    link.until(lambda: not link.unsent)
    assert link.run(Request(["echo", "fine"]))[1] == b"fine\n"
    deaf.run.signal(9)
    link.until(lambda: deaf.run.ended)
