"""A driver that breaks the rules of block requests: it gets an error, the next request is served."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.virtio.block import device as block
from pyvmm.virtio.block import request as r
from tests.support.disks import (
    DISCARD,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    SIZE,
    UNSUPP,
    WRITE_ZEROES,
    Bench,
    header,
    segment,
)

SECTORS = SIZE // 512
LAST = (1 << 64) - 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "disk.img") as bench:
        yield bench


@pytest.fixture(autouse=True)
def _still_alive_and_unchanged(bench: Bench) -> Iterator[None]:
    """Whatever a test here did: the image is as it was, and a good request gets its answer."""
    before = bench.image
    yield
    assert bench.image == before
    assert bench.read(0, 512) == (OK, before[:512])


@pytest.mark.parametrize("size", [0, 1, 15])
def test_header_when_short_is_an_io_error(bench: Bench, size: int) -> None:
    assert bench.ask([header(IN)[:size]], [512, 1])[0] == IOERR


def test_header_when_write_only_is_an_io_error(bench: Bench) -> None:
    assert bench.ask([], [16, 512, 1])[0] == IOERR


def test_request_when_it_has_no_status_comes_back_empty(bench: Bench) -> None:
    made = bench.served([([header(IN)], []), ([header(OUT), bytes(512)], [])])

    assert [request.written for request in made] == [0, 0]


def test_request_when_its_status_is_read_only_comes_back_empty(bench: Bench) -> None:
    (request,) = bench.served([([header(OUT), bytes(512), b"\xff"], [])])

    assert request.written == 0


def test_request_when_its_status_has_no_bytes_takes_the_last_that_there_is(bench: Bench) -> None:
    assert bench.batch([([header(IN)], [513, 0])]) == [bench.image[:512] + b"\0"]


@pytest.mark.parametrize("kind", [IN, OUT, GET_ID, DISCARD, WRITE_ZEROES])
def test_request_when_it_has_no_data_is_an_io_error(bench: Bench, kind: int) -> None:
    assert bench.ask([header(kind)], [1])[0] == IOERR


@pytest.mark.parametrize("size", [1, 511, 513, 4095])
def test_transfer_when_it_is_no_whole_sectors_is_an_io_error(bench: Bench, size: int) -> None:
    assert bench.read(0, size)[0] == IOERR
    assert bench.write(0, bytes(size)) == IOERR


@pytest.mark.parametrize(
    ("sector", "size"),
    [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (SECTORS + 1000, 512),
        (LAST, 512),
        (LAST - 1, 4096),
        ((1 << 55) - 1, 512),
        (1 << 55, 512),
        (1 << 63, 512),
    ],
)
def test_transfer_when_past_the_end_or_wrapping_round_is_an_io_error(
    bench: Bench, sector: int, size: int
) -> None:
    assert bench.read(sector, size)[0] == IOERR
    assert bench.write(sector, bytes(size)) == IOERR


def test_transfer_when_past_the_end_beside_a_good_one_fails_alone(bench: Bench) -> None:
    answers = bench.batch(
        [([header(IN, SECTORS - 1)], [512, 1]), ([header(IN, SECTORS)], [512, 1]), ([header(IN)], [512, 1])]
    )

    assert [answer[-1] for answer in answers] == [OK, IOERR, OK]


def test_read_into_what_the_driver_made_read_only_is_an_io_error(bench: Bench) -> None:
    assert bench.ask([header(IN), bytes(512)], [1])[0] == IOERR


def test_write_from_what_the_driver_made_write_only_is_an_io_error(bench: Bench) -> None:
    assert bench.ask([header(OUT)], [512, 1])[0] == IOERR


def test_get_id_when_too_little_room_is_an_io_error(bench: Bench) -> None:
    assert bench.ask([header(GET_ID)], [19, 1])[0] == IOERR


def test_flush_when_it_carries_data_and_a_sector_is_a_flush(bench: Bench) -> None:
    assert bench.ask([header(FLUSH, LAST), bytes(512)], [1])[0] == OK


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize(
    ("sector", "count"),
    [(SECTORS, 1), (SECTORS - 1, 2), (0, SECTORS + 1), (LAST, 1), (LAST, 0xFFFF_FFFF), (0, 0xFFFF_FFFF)],
)
def test_forgetting_out_of_range_is_an_io_error(bench: Bench, kind: int, sector: int, count: int) -> None:
    assert bench.ask([header(kind), segment(sector, count)], [1])[0] == IOERR


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_forgetting_when_one_segment_is_bad_does_none(bench: Bench, kind: int) -> None:
    assert bench.ask([header(kind), segment(0, 8) + segment(SECTORS, 8)], [1])[0] == IOERR


@pytest.mark.parametrize("size", [1, 15, 17, 16 * block.MAX_SEGMENTS + 16, 1 << 20])
def test_forgetting_when_segments_are_not_whole_or_too_many_is_an_io_error(bench: Bench, size: int) -> None:
    assert bench.ask([header(DISCARD), bytes(size)], [1])[0] == IOERR
    assert bench.ask([header(WRITE_ZEROES), bytes(size)], [1])[0] == IOERR


@pytest.mark.parametrize(
    ("kind", "flags"), [(DISCARD, r.UNMAP), (DISCARD, 2), (WRITE_ZEROES, 2), (WRITE_ZEROES, 1 << 31)]
)
def test_forgetting_when_flags_are_unknown_is_unsupported(bench: Bench, kind: int, flags: int) -> None:
    assert bench.ask([header(kind), segment(0, 8, flags)], [1])[0] == UNSUPP


def test_everything_that_writes_is_an_io_error_on_a_readonly_disk(tmp_path: Path) -> None:
    path = tmp_path / "readonly.img"
    path.write_bytes(b"x" * 4096)
    with Bench(path, readonly=True) as bench:
        statuses = [
            bench.write(0, bytes(512)),
            bench.ask([header(DISCARD), segment(0, 8)], [1])[0],
            bench.ask([header(WRITE_ZEROES), segment(0, 8)], [1])[0],
        ]

        assert statuses == [IOERR] * 3
        assert bench.read(0, 4096) == (OK, b"x" * 4096)
        assert bench.flush() == OK


def test_header_when_rewritten_after_it_was_read_counts_as_read(bench: Bench) -> None:
    # The driver's memory is changed while the device transfers: the sector in use is the checked copy.
    ring, memory = bench.driver.queues[0], bench.driver.memory
    place = bench.driver.allocate(16)
    memory.write(place, header(IN, 1))
    data, status = bench.driver.allocate(512), bench.driver.allocate(1)
    ring.add_buffers([(place, 16, 0), (data, 512, 2), (status, 1, 2)], [(data, 512), (status, 1)])
    read = bench.disk.read_now

    def rewriting(views: list[memoryview], offset: int, size: int) -> bool:
        memory.write(place, struct.pack("<IIQ", OUT, 0, LAST))
        return read(views, offset, size)

    bench.disk.read_now = rewriting  # type: ignore[method-assign]
    ring.kick()
    bench.driver.run(ring.collect)
    bench.disk.read_now = read  # type: ignore[method-assign]

    assert memory.read(data, 512) == bench.image[512:1024]
    assert memory.read_u8(status) == OK


def test_notices_about_a_stream_of_bad_requests_are_few(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(200):
        bench.read(LAST, 512)

    assert len(capfd.readouterr().err.splitlines()) <= 5


def test_reset_while_requests_are_queued_leaves_a_device_that_starts_again(bench: Bench) -> None:
    ring = bench.driver.queues[0]
    for n in range(50):
        ring.add([header(IN, n)], [512, 1])
    bench.driver.reset()
    bench.driver.run()
    bench.driver.probe()
