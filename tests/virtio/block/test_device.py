"""The block device, driven by the fake driver: what a well-behaved driver gets."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pyvmm.backends.disk.base import DiskError
from pyvmm.backends.disk.raw import RawDisk
from pyvmm.virtio import features
from pyvmm.virtio.block import device as block
from pyvmm.virtio.block import request as r
from pyvmm.virtio.block.device import Block
from pyvmm.virtio.errors import StateError
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

COMMON = features.F_VERSION_1
WRITEBACK = 32  # the offset of that field


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def spied(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every call of the disk's method *name*, which is carried out all the same."""
    calls: list[tuple[Any, ...]] = []
    real = getattr(bench.disk, name)
    monkeypatch.setattr(bench.disk, name, lambda *arguments: (calls.append(arguments), real(*arguments))[1])
    return calls


def test_read_when_data_is_in_several_buffers_fills_them(path: Path) -> None:
    with Bench(path) as bench:
        answer = bench.ask([header(IN, 3)], [100, 412, 1024, 1])
        image = bench.image

    assert answer == (OK, image[3 * 512 : 6 * 512])


@pytest.mark.parametrize("indirect", [False, True])
def test_write_when_read_back_is_the_same(path: Path, indirect: bool) -> None:
    data = os.urandom(8192)
    with Bench(path) as bench:
        status, _ = bench.ask([header(OUT, 8), data[:4096], data[4096:]], [1], indirect=indirect)

        assert (status, bench.image[4096:12288]) == (OK, data)
        assert bench.read(8, 8192) == (OK, data)


def test_request_when_header_and_status_share_buffers_with_data_works(path: Path) -> None:
    data = os.urandom(1024)
    with Bench(path) as bench:
        wrote, _ = bench.ask([header(OUT, 2)[:7], header(OUT, 2)[7:] + data], [1])
        got = bench.ask([header(IN, 2)], [1025])

    assert (wrote, got) == (OK, (OK, data))


def test_used_length_counts_data_and_status(path: Path) -> None:
    with Bench(path) as bench:
        made = bench.served([([header(IN)], [512, 1]), ([header(OUT), bytes(512)], [1])])

    assert [request.written for request in made] == [513, 1]


def test_last_sector_can_be_read(path: Path) -> None:
    with Bench(path) as bench:
        assert bench.read(SIZE // 512 - 1, 512) == (OK, bench.image[-512:])


def test_neighbours_in_a_batch_are_one_transfer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path) as bench:
        reads = spied(bench, "read_now", monkeypatch)
        answers = bench.batch([([header(IN, 8 * n)], [4096, 1]) for n in (0, 1, 2, 9)])
        image = bench.image

    assert [(offset, size) for _, offset, size in reads] == [(0, 12288), (9 * 4096, 4096)]
    assert answers == [image[4096 * n : 4096 * n + 4096] + b"\0" for n in (0, 1, 2, 9)]


def test_neighbours_when_they_exceed_a_transfer_are_several(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "MERGE_BYTES", 8192)
    with Bench(path) as bench:
        writes = spied(bench, "write", monkeypatch)
        bench.batch([([header(OUT, 8 * n), bytes([n]) * 4096], [1]) for n in range(5)])

        assert [size for _, _, size, _ in writes] == [8192, 8192, 4096]
        assert bench.image[:20480] == b"".join(bytes([n]) * 4096 for n in range(5))


def test_read_after_a_write_in_one_batch_sees_it(path: Path) -> None:
    data = os.urandom(512)
    with Bench(path) as bench:
        answers = bench.batch([([header(OUT, 1), data], [1]), ([header(IN, 1)], [512, 1])])

    assert answers[1] == data + b"\0"


def test_flush_comes_after_the_writes_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with Bench(path) as bench:
        write, flush = bench.disk.write, bench.disk.flush
        monkeypatch.setattr(bench.disk, "write", lambda *a: (order.append("write"), write(*a))[1])
        monkeypatch.setattr(bench.disk, "flush", lambda: (order.append("flush"), flush())[1])
        bench.batch([([header(OUT, n), bytes(512)], [1]) for n in (5, 9)] + [([header(FLUSH)], [1])])

    assert order == ["write", "write", "flush"]


def test_flush_reaches_the_medium(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    with Bench(path) as bench:
        assert bench.flush() == OK

    assert len(synced) == 1


def test_flush_when_the_cache_is_unsafe_does_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path, cache="unsafe") as bench:
        flushes = spied(bench, "flush", monkeypatch)

        assert (bench.flush(), flushes) == (OK, [])


@pytest.mark.parametrize("serial", ["", "disk-1", "x" * 20])
def test_get_id_gives_the_serial_padded(path: Path, serial: str) -> None:
    with Bench(path, serial=serial) as bench:
        assert bench.ask([header(GET_ID)], [20, 1]) == (OK, serial.encode().ljust(20, b"\0"))


def test_discard_makes_holes(path: Path) -> None:
    with Bench(path) as bench:
        before = path.stat().st_blocks
        bench.flush()
        parts = segment(0, 2048) + segment(4096, 2048)

        assert bench.ask([header(DISCARD), parts], [1])[0] == OK
        assert path.stat().st_blocks <= before - 4000


@pytest.mark.parametrize("flags", [0, r.UNMAP])
def test_write_zeroes_gives_zeroes_and_nothing_else_changes(path: Path, flags: int) -> None:
    with Bench(path) as bench:
        before = bench.image

        assert bench.ask([header(WRITE_ZEROES), segment(2, 9, flags)], [1])[0] == OK
        assert bench.image == before[:1024] + bytes(9 * 512) + before[11 * 512 :]


@pytest.mark.parametrize("kind", [2, 3, 5, 10, 14, 15, 0x8000_0000, 0xFFFF_FFFF])
def test_unknown_request_is_unsupported(path: Path, kind: int) -> None:
    with Bench(path) as bench:
        assert bench.ask([header(kind), bytes(512)], [1])[0] == UNSUPP


# How writes reach the medium (5.2.5, 5.2.6.2)


def durable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> bool:
    writes = spied(bench, "write", monkeypatch)
    assert bench.write(0, bytes(512)) == OK
    return bool(writes[-1][3])


@pytest.mark.parametrize(
    ("accepted", "cache", "expected"),
    [
        (r.F_FLUSH | r.F_CONFIG_WCE, "writeback", False),
        (r.F_FLUSH, "writeback", False),
        (0, "writeback", True),
        (r.F_CONFIG_WCE, "writeback", True),
        (r.F_FLUSH | r.F_CONFIG_WCE, "writethrough", True),
        (r.F_FLUSH, "writethrough", True),
        (0, "unsafe", False),
    ],
)
def test_write_is_durable_when_the_driver_cannot_or_need_not_flush(
    path: Path, monkeypatch: pytest.MonkeyPatch, accepted: int, cache: str, expected: bool
) -> None:
    with Bench(path, features=COMMON | accepted, cache=cache) as bench:
        assert durable(bench, monkeypatch) is expected


def test_driver_switches_between_writeback_and_writethrough(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(path) as bench:
        bench.driver.write(0x100 + WRITEBACK, 1, 0)
        through = durable(bench, monkeypatch)
        bench.driver.write(0x100 + WRITEBACK, 1, 1)
        back = durable(bench, monkeypatch)

    assert (through, back) == (True, False)


def test_reset_brings_back_the_cache_the_user_chose(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path) as bench:
        bench.driver.write(0x100 + WRITEBACK, 1, 0)
        bench.driver.probe()

        assert bench.driver.config(WRITEBACK, 1) == 1
        assert durable(bench, monkeypatch) is False


# What the driver is told


def test_features_and_configuration_say_what_the_disk_is(path: Path) -> None:
    with Bench(path, queues=4) as bench:
        fields = bench.device.config.fields()
        offered = bench.driver.offered()

    assert fields["capacity"] == SIZE // 512
    assert (fields["seg_max"], fields["num_queues"], fields["writeback"]) == (254, 4, 1)
    assert (fields["blk_size"], fields["physical_block_exp"], fields["min_io_size"]) == (512, 3, 8)
    assert offered & r.F_MQ and offered & r.F_DISCARD and not offered & r.F_RO


def test_config_fields_lie_where_the_kernel_header_says(path: Path) -> None:
    # Offsets of struct virtio_blk_config, <linux/virtio_blk.h>.
    places = {
        "capacity": 0,
        "seg_max": 12,
        "blk_size": 20,
        "physical_block_exp": 24,
        "min_io_size": 26,
        "opt_io_size": 28,
        "writeback": WRITEBACK,
        "num_queues": 34,
        "max_discard_sectors": 36,
        "discard_sector_alignment": 44,
        "max_write_zeroes_sectors": 48,
        "write_zeroes_may_unmap": 56,
    }
    with Bench(path) as bench:
        assert {name: bench.device.config.place(name)[0] for name in places} == places


def test_readonly_disk_offers_ro_and_nothing_that_writes(path: Path) -> None:
    path.write_bytes(bytes(512))
    with Bench(path, readonly=True) as bench:
        offered = bench.driver.offered()

    assert offered & r.F_RO
    assert not offered & (r.F_DISCARD | r.F_WRITE_ZEROES)


def test_every_queue_is_served(path: Path) -> None:
    with Bench(path, queues=3) as bench:
        answers = [bench.ask([header(IN)], [512, 1], queue=n) for n in range(3)]

        assert answers == [(OK, bench.image[:512])] * 3


def test_resized_when_the_file_grew_tells_the_driver(path: Path) -> None:
    with Bench(path) as bench:
        os.truncate(path, 2 * SIZE)
        changed = bench.device.resized()
        status = bench.driver.acknowledge()

        assert (changed, bench.device.resized()) == (True, False)
        assert (bench.driver.config(0, 8), status & 2) == (2 * SIZE // 512, 2)
        assert bench.read(SIZE // 512, 512) == (OK, bytes(512))


def test_resized_when_the_file_shrank_refuses_what_is_gone(path: Path) -> None:
    with Bench(path) as bench:
        os.truncate(path, SIZE // 2)
        bench.device.resized()

        assert bench.read(SIZE // 512 - 1, 512)[0] == IOERR


# When the host cannot


def test_full_file_system_is_an_io_error_told_once_and_the_guest_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Bench(path) as bench:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(full))
            statuses = [bench.write(0, bytes(512)) for _ in range(20)]
        after = bench.write(0, bytes(512))

    said = capfd.readouterr().err.splitlines()
    assert (statuses, after) == ([IOERR] * 20, OK)
    assert 1 <= len(said) <= 5
    assert said[0].endswith("failed: No space left on device; the guest gets an I/O error")
    assert str(path) in said[0]


def test_broken_sector_fails_its_request_and_not_its_neighbours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(path) as bench:
        read = bench.disk.read
        monkeypatch.setattr(bench.disk, "read_now", lambda *_: False)

        def broken(views: Any, offset: int, size: int) -> None:
            if offset <= 4096 < offset + size:
                raise OSError(errno.EIO, "Input/output error")
            read(views, offset, size)

        monkeypatch.setattr(bench.disk, "read", broken)
        answers = bench.batch([([header(IN, 8 * n)], [4096, 1]) for n in range(3)])

    assert [answer[-1] for answer in answers] == [OK, IOERR, OK]


def test_flush_that_fails_is_an_io_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with Bench(path) as bench:
        assert bench.flush() == IOERR


def test_discard_where_the_host_has_none_is_unsupported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with Bench(path) as bench:
        monkeypatch.setattr(bench.disk, "discard", refuses)

        assert bench.ask([header(DISCARD), segment(0, 8)], [1])[0] == UNSUPP


# Making, saving


@pytest.mark.parametrize(
    "options", [{"serial": "x" * 21}, {"serial": "\u00e9"}, {"queues": 0}, {"queues": 17}]
)
def test_serial_and_queues_out_of_range_are_refused(path: Path, options: dict[str, Any]) -> None:
    path.write_bytes(bytes(512))
    disk = RawDisk(str(path))

    with pytest.raises(DiskError):
        Block(disk, **options)

    disk.close()


def test_saved_device_goes_on_with_the_same_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(path) as bench:
        bench.driver.write(0x100 + WRITEBACK, 1, 0)
        state = bench.driver.transport.save()
        bench.driver.transport.load(state)
        bench.driver.run()

        assert bench.driver.config(WRITEBACK, 1) == 0
        assert durable(bench, monkeypatch) is True


def test_saved_device_with_an_image_of_another_size_is_refused(path: Path) -> None:
    with Bench(path) as bench:
        state = bench.driver.transport.save()
        os.truncate(path, 2 * SIZE)
        bench.device.resized()

        with pytest.raises(StateError, match="give the image that belongs to it"):
            bench.driver.transport.load(state)


def test_saved_device_with_blocks_of_another_size_is_refused_with_the_option_to_give(path: Path) -> None:
    with Bench(path) as bench:
        state = bench.driver.transport.save()
    with Bench(path) as bench:
        bench.disk.block_size = 4096

        with pytest.raises(StateError, match="give it with block-size=512"):
            bench.driver.transport.load(state)


# Requests that take long

EIGHT_MIB = 8 << 20


def test_zeroes_are_written_in_short_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    os.truncate(path, 64 << 20)
    with Bench(path) as bench:
        calls = spied(bench, "write_zeroes", monkeypatch)

        assert bench.ask([header(WRITE_ZEROES), segment(8, 0xA000) + segment(0xF000, 0x100)], [1])[0] == OK
        pieces = [(offset, size) for offset, size, *_ in calls]
        assert pieces == [
            (4096, EIGHT_MIB),
            (4096 + EIGHT_MIB, EIGHT_MIB),
            (4096 + 2 * EIGHT_MIB, EIGHT_MIB // 2),
            (0xF000 * 512, 0x100 * 512),
        ]


@pytest.mark.parametrize(("kind", "method"), [(WRITE_ZEROES, "write_zeroes"), (DISCARD, "discard")])
def test_reset_when_many_slow_requests_wait_for_the_disk_waits_for_one_call(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, method: str
) -> None:
    path.touch()
    os.truncate(path, 64 << 20)
    with Bench(path) as bench:
        calls: list[tuple[int, ...]] = []

        def slow(*arguments: int) -> None:
            calls.append(arguments)
            bench.device.runtime.stopping = True  # as ``stop`` sets it, in a vCPU's thread

        monkeypatch.setattr(bench.disk, method, slow)
        for _ in range(60):
            bench.driver.queues[0].add([header(kind), segment(0, 0x8000) * 4], [1])

        bench.device.runtime.run_queue(0)

        assert len(calls) == 1


def test_queue_whose_requests_take_long_lets_the_other_queues_have_their_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(path, queues=2) as bench:
        now, order = [0.0], []
        flush, get_id = bench.disk.flush, bench.device._get_id

        def slow() -> None:
            now[0] += block.TURN * 0.4
            order.append("slow")
            flush()

        monkeypatch.setattr(block, "perf_counter", lambda: now[0])
        monkeypatch.setattr(bench.disk, "flush", slow)
        monkeypatch.setattr(
            bench.device, "_get_id", lambda request: (order.append("other"), get_id(request))[1]
        )
        first, second = bench.driver.queues
        for _ in range(10):
            first.add([header(FLUSH)], [1])
        second.add([header(GET_ID)], [20, 1])
        first.kick()
        second.kick()
        bench.driver.run()

        assert order == ["slow"] * 3 + ["other"] + ["slow"] * 7
        assert len(first.collect()) == 10
