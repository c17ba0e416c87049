"""Our vhost-user back end against a front end that breaks the rules: each test names the rule."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.host.eventfd import EventSignaller
from pyvmm.loop import Loop
from pyvmm.virtio import features as f
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.ring.chain import Chain
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.server.session import Session

MEMORY = 1 << 20
GPA, USER = 0x10000, 0x7F00_0000_0000
OFFERED = f.COMMON | p.F_PROTOCOL_FEATURES


class Echo(VirtioDevice):
    device_id = 42
    name = "echo"
    queue_sizes = (8, 8)
    config_fields = {"fixed": "u32", "free": "u32"}
    config_writable = frozenset({"free"})

    def handle(self, queue: int, chain: Chain) -> None:
        chain.write(chain.read(chain.readable_size))


class Front:
    """A front end in this process: says what a test wants said."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.over: list[str] = []
        self.defects: list[Exception] = []
        self.device = Echo()
        self.device.runtime.attach(self.loop)
        self.sock, theirs = socket.socketpair()
        self.signaller = EventSignaller()
        self.session = Session(
            self.device, theirs, self.loop, self.over.append, self.defects.append, self.signaller
        )
        self.fds: list[int] = []

    def close(self) -> None:
        self.session.close()
        self.signaller.close()
        self.sock.close()
        self.loop.close()
        for fd in self.fds:
            os.close(fd)
        assert self.defects == []

    def turn(self) -> None:
        while self.loop.run_once(0):
            pass

    def say(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        p.send(self.sock, request, payload, fds, flags)
        self.turn()

    def answer(self) -> p.Message:
        message = p.MessageReceiver(self.sock).receive(time.monotonic() + 5)
        assert message is not None
        return message

    def eventfd(self) -> int:
        self.fds.append(os.eventfd(0, os.EFD_NONBLOCK))
        return self.fds[-1]

    def memfd(self, size: int = MEMORY) -> int:
        self.fds.append(os.memfd_create("test"))
        os.ftruncate(self.fds[-1], size)
        return self.fds[-1]

    def table(self, *rows: tuple[int, int, int, int], count: int | None = None) -> bytes:
        body = b"".join(p.MEM_REGION.pack(*row) for row in rows)
        return p.MEM_TABLE.pack(len(rows) if count is None else count, 0) + body

    def begin(self, features: int = OFFERED, protocol: int = p.PROTOCOL_F_CONFIG) -> None:
        """All that comes before the rings."""
        self.say(p.SET_OWNER)
        self.say(p.SET_PROTOCOL_FEATURES, p.U64.pack(protocol))
        self.say(p.SET_FEATURES, p.U64.pack(features))
        self.say(p.SET_MEM_TABLE, self.table((GPA, MEMORY, USER, 0)), [self.memfd()])

    def ring(self, index: int, *, size: int = 8, desc: int = USER, base: int = 0) -> int:
        """Set a ring up as a well-behaved front end does; the eventfd for errors."""
        err = self.eventfd()
        self.say(p.SET_VRING_NUM, p.VRING_STATE.pack(index, size))
        self.say(p.SET_VRING_BASE, p.VRING_STATE.pack(index, base))
        self.say(p.SET_VRING_ADDR, p.VRING_ADDR.pack(index, 0, desc, desc + 0x2000, desc + 0x1000, 0))
        self.say(p.SET_VRING_CALL, p.U64.pack(index), [self.eventfd()])
        self.say(p.SET_VRING_ERR, p.U64.pack(index), [err])
        self.say(p.SET_VRING_KICK, p.U64.pack(index), [self.eventfd()])
        self.say(p.SET_VRING_ENABLE, p.VRING_STATE.pack(index, 1))
        return err


@pytest.fixture
def front() -> Iterator[Front]:
    before = len(os.listdir("/proc/self/fd"))
    front = Front()
    yield front
    front.close()
    gc.collect()  # views of guest memory hold its file
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


# Framing


def test_message_of_another_version_ends_the_session(front: Front) -> None:
    front.sock.send(p.HEADER.pack(p.GET_FEATURES, 2, 0))
    front.turn()

    assert "version 1" in front.over[0]


def test_message_longer_than_any_is_refused_before_it_is_read(front: Front) -> None:
    front.sock.send(p.HEADER.pack(p.GET_FEATURES, 1, 1 << 31))
    front.turn()

    assert "none of vhost-user" in front.over[0]


@pytest.mark.parametrize("size", [0, 1, 11, 12, 15])
def test_connection_that_ends_inside_a_message_ends_the_session(front: Front, size: int) -> None:
    front.sock.send((p.HEADER.pack(p.SET_FEATURES, 1, 8) + bytes(8))[:size])
    front.sock.shutdown(socket.SHUT_WR)
    front.turn()

    assert "closed the connection" in front.over[0]


def test_message_that_comes_byte_by_byte_is_one_message(front: Front) -> None:
    for byte in p.HEADER.pack(p.GET_FEATURES, 1, 0):
        front.sock.send(bytes([byte]))
        front.turn()

    assert front.answer().unpack(p.U64) == (OFFERED,)


def test_more_descriptors_than_any_message_has_end_the_session(front: Front) -> None:
    front.say(p.SET_MEM_TABLE, front.table((GPA, MEMORY, USER, 0)), [front.memfd() for _ in range(9)])

    assert "more than 8 file descriptors" in front.over[0]


def test_descriptors_that_nobody_asked_for_are_closed(front: Front) -> None:
    front.say(p.GET_FEATURES, b"", [front.eventfd(), front.eventfd()])

    assert front.answer().unpack(p.U64) == (OFFERED,)  # the fixture counts descriptors


@pytest.mark.parametrize(
    ("request_", "layout"),
    [
        (p.SET_FEATURES, p.U64),
        (p.SET_PROTOCOL_FEATURES, p.U64),
        (p.SET_VRING_NUM, p.VRING_STATE),
        (p.SET_VRING_ADDR, p.VRING_ADDR),
        (p.SET_VRING_KICK, p.U64),
        (p.GET_VRING_BASE, p.VRING_STATE),
        (p.SET_STATUS, p.U64),
        (p.GET_CONFIG, p.CONFIG),
    ],
)
def test_payload_of_a_wrong_size_ends_the_session(front: Front, request_: int, layout: p.Struct) -> None:
    front.say(request_, bytes(layout.size - 1))

    assert len(front.over) == 1


def test_request_nobody_knows_ends_the_session(front: Front) -> None:
    front.say(999)

    assert "not offered" in front.over[0]


def test_request_that_is_refused_is_answered_where_answers_were_agreed_on(front: Front) -> None:
    front.begin(protocol=p.PROTOCOL_F_REPLY_ACK)
    front.say(p.SET_VRING_NUM, p.VRING_STATE.pack(7, 8), flags=p.NEED_REPLY)
    refused = front.answer().unpack(p.U64)
    front.say(p.SET_VRING_NUM, p.VRING_STATE.pack(0, 8), flags=p.NEED_REPLY)

    assert (refused, front.answer().unpack(p.U64), front.over) == ((1,), (0,), [])


# Features and configuration


def test_feature_not_offered_is_refused(front: Front) -> None:
    front.say(p.SET_FEATURES, p.U64.pack(OFFERED | f.F_RING_PACKED))

    assert "RING_PACKED" in front.over[0]


def test_driver_without_version_1_is_not_started(front: Front) -> None:
    front.begin(features=p.F_PROTOCOL_FEATURES)
    front.ring(0)
    err = front.ring(1)

    assert (front.device.runtime.active, os.eventfd_read(err)) == (False, 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 257), (257, 4), (0xFFFF_FFFF, 8), (0, 0xFFFF_FFFF)])
def test_configuration_outside_of_what_a_message_can_ask_is_refused(
    front: Front, offset: int, size: int
) -> None:
    front.say(p.GET_CONFIG, p.CONFIG.pack(offset, size, 0) + bytes(min(size, 512)))

    assert len(front.over) == 1


def test_configuration_past_the_end_reads_zeroes(front: Front) -> None:
    front.device.config.fixed = 7
    front.say(p.GET_CONFIG, p.CONFIG.pack(0, 12, 0) + bytes(12))

    assert front.answer().payload[p.CONFIG.size :] == b"\7" + bytes(11)


def test_configuration_that_is_read_only_stays(front: Front) -> None:
    front.say(p.SET_CONFIG, p.CONFIG.pack(0, 8, 0) + b"\1" * 8)
    front.say(p.SET_CONFIG, p.CONFIG.pack(4, 4, 0) + b"\1" * 4)

    assert (front.device.config.fixed, front.device.config.free) == (0, 0x01010101)


# Memory


@pytest.mark.parametrize(
    "rows",
    [
        [(GPA, MEMORY + 4096, USER, 0)],  # past the end of the file
        [(GPA, MEMORY, USER, 4096)],  # so by its offset
        [(GPA, MEMORY, USER, (1 << 64) - 4096)],  # offset and size overflow
        [(GPA, MEMORY, (1 << 64) - 4096, 0)],  # user addresses overflow
        [((1 << 64) - 4096, MEMORY, USER, 0)],  # guest addresses overflow
        [(GPA, 0, USER, 0)],  # empty
        [(GPA + 1, MEMORY, USER, 0)],  # not on a page
        [(GPA, MEMORY, USER, 0), (GPA + 4096, MEMORY, USER + MEMORY, 0)],  # two in one place
        [(GPA + n * MEMORY, MEMORY, USER, 0) for n in range(9)],  # too many
        [],
    ],
)
def test_memory_table_that_breaks_a_rule_is_refused(
    front: Front, rows: list[tuple[int, int, int, int]]
) -> None:
    fds = [front.memfd()] * min(len(rows), 8)
    front.say(p.SET_MEM_TABLE, front.table(*rows), fds)

    assert len(front.over) == 1
    assert front.session.memory is None


def test_memory_table_that_counts_more_than_it_has_is_refused(front: Front) -> None:
    front.say(p.SET_MEM_TABLE, front.table((GPA, MEMORY, USER, 0), count=2), [front.memfd()] * 2)

    assert len(front.over) == 1


def test_memory_table_without_its_files_is_refused(front: Front) -> None:
    front.say(p.SET_MEM_TABLE, front.table((GPA, MEMORY, USER, 0)))

    assert "0 files" in front.over[0]


def test_memory_that_is_no_file_is_refused(front: Front) -> None:
    front.say(p.SET_MEM_TABLE, front.table((GPA, MEMORY, USER, 0)), [front.eventfd()])

    assert "no file" in front.over[0]


def test_memory_that_must_not_be_written_is_refused(front: Front, tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(MEMORY))
    with open(tmp_path / "ram", "rb") as file:
        front.say(p.SET_MEM_TABLE, front.table((GPA, MEMORY, USER, 0)), [file.fileno()])

    assert "cannot be mapped" in front.over[0]


def test_memory_that_is_taken_from_a_running_ring_is_refused(front: Front) -> None:
    front.begin()
    front.ring(0)
    front.ring(1, desc=USER + 0x8000)
    assert front.device.runtime.active

    front.say(p.SET_MEM_TABLE, front.table((GPA, MEMORY, USER + (1 << 40), 0)), [front.memfd()])

    assert "takes the memory" in front.over[0]
    assert not front.device.runtime.active


# Rings


def test_ring_beyond_the_last_is_refused(front: Front) -> None:
    front.say(p.SET_VRING_ENABLE, p.VRING_STATE.pack(2, 1))

    assert "ring 2" in front.over[0]


@pytest.mark.parametrize(
    ("size", "desc"),
    [
        (7, USER),  # not a power of two
        (1 << 16, USER),  # larger than any
        (8, USER - 4096),  # outside
        (8, USER + MEMORY - 64),  # partly outside
        (8, USER + 8),  # misaligned
    ],
)
def test_ring_that_breaks_a_rule_does_not_start_and_its_error_is_signalled(
    front: Front, size: int, desc: int
) -> None:
    front.begin()
    front.ring(0)
    err = front.ring(1, size=size, desc=desc)

    assert (front.device.runtime.active, front.over) == (False, [])
    assert os.eventfd_read(err) == 1


def test_ring_whose_index_runs_away_stops_the_device_and_its_error_is_signalled(front: Front) -> None:
    front.begin()
    with mmap.mmap(front.fds[-1], MEMORY) as memory:
        memory[0x1002:0x1004] = (9).to_bytes(2, "little")  # the available ring's index: 9 ahead of 8
        err = front.ring(0)
        front.ring(1, desc=USER + 0x8000)

    assert (front.device.runtime.active, os.eventfd_read(err)) == (False, 1)


def test_position_of_more_than_16_bits_is_refused(front: Front) -> None:
    front.say(p.SET_VRING_BASE, p.VRING_STATE.pack(0, 1 << 16))

    assert "16 bits" in front.over[0]


def test_kick_that_is_no_eventfd_is_refused(front: Front) -> None:
    front.say(p.SET_VRING_KICK, p.U64.pack(0), [front.memfd()])

    assert "no eventfd" in front.over[0]


def test_ring_to_be_polled_is_refused(front: Front) -> None:
    front.say(p.SET_VRING_KICK, p.U64.pack(0 | p.NO_FD))

    assert "polling is not offered" in front.over[0]


def test_back_channel_that_is_no_socket_is_refused(front: Front) -> None:
    front.say(p.SET_BACKEND_REQ_FD, b"", [front.memfd()])

    assert "no socket" in front.over[0]


def test_base_of_a_ring_that_never_ran_is_what_was_set(front: Front) -> None:
    front.say(p.SET_VRING_BASE, p.VRING_STATE.pack(1, 77))
    front.say(p.GET_VRING_BASE, p.VRING_STATE.pack(1, 0))

    assert front.answer().unpack(p.VRING_STATE) == (1, 77)


def test_ring_that_is_disabled_serves_nothing_until_it_is_enabled(front: Front) -> None:
    front.begin()
    front.ring(0)
    front.ring(1, desc=USER + 0x8000)
    front.say(p.SET_VRING_ENABLE, p.VRING_STATE.pack(0, 0))
    disabled = front.device.runtime.queues[0].ready
    front.say(p.SET_VRING_ENABLE, p.VRING_STATE.pack(0, 1))

    assert (disabled, front.device.runtime.queues[0].ready, front.device.runtime.active) == (
        False,
        True,
        True,
    )


MESSAGES = st.tuples(
    st.sampled_from([*p.NAMES, 0, 22, 31, 37, 999]),
    st.one_of(st.binary(max_size=64), st.integers(0, 3).map(lambda n: p.VRING_STATE.pack(n, 8))),
    st.integers(0, 2),
    st.sampled_from([0, p.NEED_REPLY, p.REPLY]),
)


@given(st.lists(MESSAGES, max_size=12), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_messages_end_in_answers_or_the_sessions_end(
    messages: list[tuple[int, bytes, int, int]], begun: bool
) -> None:
    front = Front()
    try:
        if begun:
            front.begin()
            front.ring(0)
        for request, payload, fds, flags in messages:
            if front.over:
                break
            front.say(request, payload, [front.eventfd() for _ in range(fds)], flags)
    finally:
        front.close()


# Descriptors that the front end shares


@pytest.mark.timeout(60)
def test_interrupt_that_is_full_and_blocks_does_not_hold_the_device(front: Front) -> None:
    front.begin()
    front.ring(0)
    front.ring(1, desc=USER + 0x8000)
    call, err = front.eventfd(), front.eventfd()
    front.say(p.SET_VRING_CALL, p.U64.pack(0), [call])
    front.say(p.SET_VRING_ERR, p.U64.pack(0), [err])
    for fd in (call, err):
        os.eventfd_write(fd, 2**64 - 2)
        os.set_blocking(fd, True)
    front.session.used(0)
    front.session.needs_reset()

    assert [os.eventfd_read(fd) for fd in (call, err)] == [2**64 - 1] * 2


@pytest.mark.timeout(60)
def test_back_channel_that_is_full_and_blocks_does_not_hold_the_device(front: Front) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        front.say(p.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        with contextlib.suppress(BlockingIOError):
            while theirs.send(bytes(4096), socket.MSG_DONTWAIT):
                pass
        theirs.setblocking(True)
        front.session.config_changed()

        assert not front.over


def test_back_channel_that_is_no_unix_stream_is_refused(front: Front) -> None:
    with socket.socket(socket.AF_INET) as sock:
        front.say(p.SET_BACKEND_REQ_FD, b"", [sock.fileno()])

    assert "no UNIX stream" in front.over[0]


def test_descriptor_whose_close_fails_is_no_error_here() -> None:
    message = p.Message(p.SET_MEM_TABLE, p.VERSION, b"", [1 << 30])  # EBADF, as a file system may say EIO

    message.close()

    assert message.fds == []
