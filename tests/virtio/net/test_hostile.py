"""A hostile network driver: what must be refused costs it its frame, and nobody else anything."""

from __future__ import annotations

import pytest

from pyvmm.testing import DriverRequest
from pyvmm.virtio.features import COMMON
from pyvmm.virtio.ring.descriptor import WRITE
from tests.support.net_driver import HEADER, NetDriver, frame, wired

GOOD = bytes(HEADER) + frame(60)


def transmit(driver: NetDriver, readable: list[bytes], writable: list[int] | None = None) -> DriverRequest:
    """Send what may be wrong, then a good frame behind it."""
    request = driver.tx.add(readable, writable or [])
    driver.tx.add([GOOD])
    driver.tx.kick()
    driver.run()
    driver.tx.collect()
    return request


@pytest.mark.parametrize(
    ("readable", "writable"),
    [
        ([GOOD], [16]),
        ([], [64]),
        ([bytes(5)], []),
        ([bytes(HEADER - 1)], []),
        ([bytes(HEADER)], []),
        ([bytes(HEADER + 13)], []),
        ([bytes(HEADER), bytes(65551)], []),
        ([bytes(1 << 20)], []),
    ],
    ids=[
        "a writable buffer",
        "only a writable buffer",
        "a short header",
        "a header one byte short",
        "an empty frame",
        "less than an Ethernet header",
        "a byte over 64 KiB",
        "a megabyte",
    ],
)
def test_row_18_frame_to_send_when_it_breaks_a_rule_comes_back_and_the_next_is_sent(
    readable: list[bytes], writable: list[int]
) -> None:
    with wired() as (driver, wire):
        request = transmit(driver, readable, writable)

        assert (request.done, request.written) == (True, 0)
        assert wire.sent() == [GOOD]
        assert driver.device.dropped == 1


def test_row_18_frame_of_exactly_64_kib_is_sent() -> None:
    with wired() as (driver, wire):
        driver.send(frame(65550))

        assert [len(one) for one in wire.sent()] == [HEADER + 65550]


def test_row_18_receive_buffers_when_too_small_all_together_lose_the_frame_and_serve_the_next() -> None:
    with wired(queue_size=4) as (driver, wire):
        driver.give(100, 100, 100, 100)
        wire.arrive(frame(1000), frame(100))

        assert driver.received() == [frame(100)]
        assert driver.device.received_dropped == 1


def test_row_18_receive_buffer_when_too_small_and_not_mergeable_comes_back_empty() -> None:
    with wired(features=COMMON) as (driver, wire):
        small, large = driver.give(50, 2048)
        wire.arrive(frame(1000), frame(1001))
        driver.run()
        driver.rx.collect()

        assert (small.done, small.written) == (True, 0)
        assert driver.rx.data(large)[HEADER:] == frame(1001)


@pytest.mark.parametrize("size", [1, 5, 11])
def test_row_18_receive_buffers_when_smaller_than_a_header_are_filled_one_after_the_other(size: int) -> None:
    with wired() as (driver, wire):
        requests = driver.give(*[size] * 200)
        wire.arrive(frame(100))
        driver.run()
        driver.rx.collect()

        got = b"".join(driver.rx.data(request) for request in requests if request.done)
        count = -(-(HEADER + 100) // size)
        assert got == bytes(10) + count.to_bytes(2, "little") + frame(100)


def test_row_18_receive_buffer_without_a_byte_is_passed_over() -> None:
    with wired() as (driver, wire):
        empty, good = driver.give(0, 2048)
        wire.arrive(frame(100))
        driver.run()
        driver.rx.collect()

        assert (empty.done, empty.written) == (True, 0)
        assert driver.rx.data(good)[HEADER:] == frame(100)


def test_row_18_receive_without_buffers_keeps_nothing_and_recovers() -> None:
    with wired() as (driver, wire):
        wire.arrive(*[frame(60 + n) for n in range(100)])
        for _ in range(3):
            driver.run()
        driver.give(*[1600] * 120)

        assert driver.received() == [frame(60 + n) for n in range(100)]


def test_readable_chain_when_given_to_receive_into_comes_back_empty() -> None:
    with wired() as (driver, wire):
        bad = driver.rx.add([b"not room"], [])
        driver.give(2048)
        wire.arrive(frame(100))
        driver.run()
        driver.rx.collect()

        assert (bad.done, bad.written) == (True, 0)
        assert not driver.status & 64


def test_receive_ring_when_its_index_runs_away_stops_the_device_until_reset() -> None:
    with wired() as (driver, wire):
        driver.rx.set_avail_idx(10_000)
        driver.rx.kick()
        wire.arrive(frame(100))
        driver.run()
        stopped = driver.status & 64
        driver.probe()
        driver.give(2048, 2048)

        assert stopped
        assert driver.received() == [frame(100)]


@pytest.mark.parametrize(
    ("kind", "number", "data"),
    [
        (0, 0, b""),
        (0, 9, b"\1"),
        (1, 0, b"\0\0"),
        (1, 0, b"\xff\xff\xff\xff" + bytes(8)),
        (1, 0, bytes(9)),
        (1, 1, bytes(5)),
        (2, 0, bytes(2)),
        (3, 0, b""),
        (4, 0, b"\1"),
        (5, 0, bytes(7)),
        (255, 255, bytes(100)),
    ],
)
def test_command_when_it_is_malformed_or_unknown_is_answered_with_an_error(
    kind: int, number: int, data: bytes
) -> None:
    with wired() as (driver, _):
        assert driver.command(kind, number, data) == 1


def test_command_without_room_for_its_status_and_one_too_long_come_back() -> None:
    with wired() as (driver, _):
        control = driver.queues[2]
        silent = control.add([b"\0\0\1"], [])
        long = control.add([b"\1\0" + bytes(1 << 17)], [1])
        control.kick()
        driver.run()
        control.collect()

        assert (silent.done, long.done) == (True, True)
        assert driver.command(0, 0, b"\1") == 0


def test_address_table_when_it_is_longer_than_kept_lets_all_of_its_kind_pass() -> None:
    many = [bytes((0x52, 0, 0, 0, n >> 8, n & 255)) for n in range(1000)]
    table = len(many).to_bytes(4, "little") + b"".join(many) + bytes(4)
    with wired() as (driver, wire):
        driver.command(0, 0, b"\0")
        status = driver.command(1, 0, table)
        driver.give(1600, 1600)
        wire.arrive(frame(60, many[-1]), frame(60, b"\x33" * 6))

        assert status == 0
        assert driver.received() == [frame(60, many[-1])]


def test_buffers_of_one_byte_receive_frames_as_any_others(capfd: pytest.CaptureFixture[str]) -> None:
    """More buffers than one read may have: IOV_MAX is 1024."""
    with wired() as (driver, wire):
        for _ in range(8):
            at = driver.allocate(500)
            buffers = [(at + 2 * n, 1) for n in range(250)]  # none of them adjacent
            driver.rx.add_buffers([(*one, WRITE) for one in buffers], buffers, indirect=True)
        driver.rx.kick()
        driver.run()
        wire.arrive(frame(60), frame(1400))

        assert driver.received() == [frame(60), frame(1400)]
        driver.give(2048)
        wire.arrive(frame(100))
        assert driver.received() == [frame(100)]
        assert driver.device.link_up
    assert capfd.readouterr().err == ""
