"""The record of a panic in guest memory: found where it is one, and only there, within its time."""

from __future__ import annotations

import statistics
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from pyvmm.machine import kernel_log
from pyvmm.machine.kernel_log import BUDGET, END, NEAR, PANIC, TOP, Search, find_panic
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from tests.conftest import INSIDE_LAB
from tests.support.kernel_log import PrintkLog

MIB, GIB = 1 << 20, 1 << 30
SIZE = 256 * MIB
RAM = 0x4000_0000
CODE = RAM + 32 * MIB
#: Where a kernel's static log and its descriptors are.
RING, INFOS = CODE + 20 * MIB, CODE + 24 * MIB
COUNT = 1 << 12
TEXT = PANIC + b"VFS: Unable to mount root fs on unknown-block(0,0)"


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    hosts = [Anonymous(SIZE), Anonymous(SIZE)]
    memory = GuestMemory([Region(RAM, SIZE, hosts[0]), Region(RAM + 2 * SIZE, SIZE, hosts[1])])
    yield memory
    memory.close()
    for host in hosts:
        host.close()


class Log(PrintkLog):
    """One in the kernel's image."""

    def __init__(
        self,
        memory: GuestMemory,
        ring: int = RING,
        infos: int = INFOS,
        wraps: int = 0,
        count: int = COUNT,
    ) -> None:
        super().__init__(memory, ring, infos, wraps * count, count)


def old_record(text: bytes, facility: int = 0, level: int = 0, header: int = 16) -> bytes:
    """A struct printk_log."""
    size = -(-(header + len(text)) // 4) * 4
    fields = struct.pack("<QHHHBB", 10**9, size, len(text), 0, facility, 2 | level << 5)
    return fields.ljust(header, b"\0") + text.ljust(size - header, b"\0")


@pytest.mark.parametrize("wraps", [0, 1, 7])
@pytest.mark.parametrize("text", [PANIC, END])
def test_record_of_a_panic_is_found(memory: GuestMemory, wraps: int, text: bytes) -> None:
    log = Log(memory, wraps=wraps)
    log.add(b"Linux version 6.1", level=5)
    log.add(text + b"Attempted to kill init!")
    log.add(b"CPU: 0 PID: 1 Comm: init", level=6)

    assert find_panic(memory, CODE, text) == (text + b"Attempted to kill init!").decode()


@pytest.mark.parametrize("header", [16, 20])
def test_record_of_an_older_kernel_is_found(memory: GuestMemory, header: int) -> None:
    memory.write(RING, old_record(TEXT, header=header))

    assert find_panic(memory, CODE) == TEXT.decode()


@pytest.mark.parametrize("code", [None, CODE, RAM + 2 * SIZE])
def test_record_in_a_log_at_the_end_of_memory_is_found(memory: GuestMemory, code: int | None) -> None:
    end = RAM + 3 * SIZE
    Log(memory, end - 2 * MIB, end - 3 * MIB).add(TEXT)

    assert find_panic(memory, code) == TEXT.decode()


@pytest.fixture
def four_gib() -> Iterator[GuestMemory]:
    """RAM on both sides of 4 GiB, none of which the host has yet."""
    hosts = [Anonymous(3 * GIB), Anonymous(GIB)]
    memory = GuestMemory([Region(0, 3 * GIB, hosts[0]), Region(4 * GIB, GIB, hosts[1])])
    yield memory
    memory.close()
    for host in hosts:
        host.close()


def large_log(memory: GuestMemory, end: int, size: int, records: int = 600, gap: int = 0) -> None:
    """A log of *size* MiB with a panic, by log_buf_len=.

    Linux takes memory for texts, descriptors and infos from *end* down.

    :param gap: bytes between the texts and the rest
    """
    count = size * MIB >> 5
    ring = end - size * MIB
    infos = ring - gap - (24 + 88) * count
    for at in range(infos & -MIB, end, MIB):
        memory.write(at, bytes(min(MIB, end - at)))  # as memblock_alloc clears it
    log = Log(memory, ring, infos, count=count)
    for number in range(records):
        log.add(b"a device that was found, number %d" % number, level=6)
    log.add(TEXT)


@pytest.mark.parametrize("size", [2, 16, 32])
def test_record_in_a_large_log_at_the_end_of_4_gib_is_found_in_the_order_of_its_budget(
    four_gib: GuestMemory, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    large_log(four_gib, 5 * GIB, size)
    monkeypatch.setattr(kernel_log, "BUDGET", 10.0)  # whatever else the host does
    begin = time.thread_time()

    found = find_panic(four_gib, 32 * MIB)

    assert found == TEXT.decode()
    assert time.thread_time() - begin < (20 if INSIDE_LAB else 10 * 4 * BUDGET)


@pytest.mark.parametrize(
    ("size", "records", "behind"), [(2, 600, 3), (16, 600, 3), (16, 5000, 80), (32, 600, 3)]
)
def test_record_in_a_large_log_is_found_by_looking_at_little_whatever_the_host_s_speed(
    four_gib: GuestMemory, monkeypatch: pytest.MonkeyPatch, size: int, records: int, behind: int
) -> None:
    """The budget is over at once. Behind the log is what Linux took before it, *behind* MiB: arm64's Linux
    keeps 64 MiB for devices, which are not used so early."""
    end = 5 * GIB - behind * MIB
    large_log(four_gib, end, size, records)
    four_gib.write(end, bytes(range(1, 129)) * (3 * MIB // 128))
    monkeypatch.setattr(kernel_log, "BUDGET", 0)
    search = Search(four_gib, 32 * MIB)

    assert search.line(PANIC) == TEXT.decode()
    # What lies behind it, its texts, and where the descriptor of the panic's record is to be expected.
    assert search.looked < 3 * MIB + (80 + 256) * records + MIB
    assert search.texts == 1


def test_record_of_a_large_log_of_several_pieces_is_found_while_the_budget_lasts(
    four_gib: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_log(four_gib, 5 * GIB, 16, gap=20 * MIB)
    monkeypatch.setattr(kernel_log, "BUDGET", 10.0)

    assert find_panic(four_gib, 32 * MIB) == TEXT.decode()


@pytest.mark.parametrize("text", [True, False])
def test_what_is_looked_at_without_any_time_is_bounded(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch, text: bool
) -> None:
    """RAM is in use; with *text*: by the log of a panic, of which the rest is not to be found."""
    block = bytes(range(1, 129)) * (MIB // 128)
    for start, size in ((CODE - 16 * MIB, 96 * MIB), (RAM + 3 * SIZE - 136 * MIB, 136 * MIB)):
        for at in range(0, size, MIB):
            memory.write(start + at, block)
    if text:
        number = (1 << 32) - COUNT + 500
        memory.write(RAM + 3 * SIZE - 8 * MIB, number.to_bytes(8, "little") + TEXT + b"\0")
    monkeypatch.setattr(kernel_log, "BUDGET", 0)
    search = Search(memory, CODE)

    assert search.line(PANIC) == ""
    assert NEAR + TOP <= search.looked < NEAR + TOP + MIB + (kernel_log.EXPECTED + MIB if text else 0)


def test_kernel_s_data_are_searched_where_the_page_tables_say_and_nowhere_else(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel far from the address that a vCPU executes, as after a reset by the BIOS."""
    monkeypatch.setattr(kernel_log, "BUDGET", 0)
    data = [(RAM + 160 * MIB, RAM + 164 * MIB), (RAM + 166 * MIB, RAM + 170 * MIB), (0, GIB // 2)]
    Log(memory, RAM + 168 * MIB, RAM + 161 * MIB).add(TEXT)
    search = Search(memory, 0xFFFF6, data)

    assert search.line(PANIC) == TEXT.decode()
    assert search.looked < 2 * MIB
    assert find_panic(memory, 0xFFFF6) == ""


def test_line_of_a_record_of_several_lines_is_the_first(memory: GuestMemory) -> None:
    Log(memory).add(TEXT + b"\nand more\x1b[2J")

    assert find_panic(memory, CODE) == TEXT.decode()


def shell(memory: GuestMemory) -> None:
    """A program's memory: a command, and a file it has read."""
    memory.write(RING, b"echo 'Kernel panic - not syncing: old log' >/dev/console\n\0")
    memory.write(RING + MIB + 8, TEXT + b"\n")
    memory.write(RING + 2 * MIB, b"[   12.345678] " + TEXT + b"\n[   12.345700] " + TEXT)


def image(memory: GuestMemory) -> None:
    """The format strings of the kernel's image."""
    memory.write(CODE + MIB + 6, b"\0010" + PANIC + b"%s\n\0")
    memory.write(CODE + MIB + 1024, PANIC + b"%s\n\0")


def kmsg(memory: GuestMemory) -> None:
    """What a program wrote to /dev/kmsg: its facility is another."""
    Log(memory).add(TEXT, facility=1)


def quieter(memory: GuestMemory) -> None:
    """What a driver printed, not as an emergency."""
    Log(memory).add(TEXT, level=6)


def stranger(memory: GuestMemory) -> None:
    """A data block and a descriptor that are not of one another."""
    log = Log(memory)
    log.add(TEXT)
    memory.write(INFOS, (12345).to_bytes(8, "little"))


def old_kmsg(memory: GuestMemory) -> None:
    """The same of an older kernel."""
    memory.write(RING, old_record(TEXT, facility=1))
    memory.write(RING + MIB, old_record(TEXT, level=4))


def edges(memory: GuestMemory) -> None:
    """At the first and the last byte of memory."""
    memory.write(RAM, TEXT)
    memory.write(RAM + SIZE - len(PANIC), PANIC)


@pytest.mark.parametrize("write", [shell, image, kmsg, quieter, stranger, old_kmsg, edges])
def test_text_that_is_no_record_is_not_believed(
    memory: GuestMemory, write: Callable[[GuestMemory], None]
) -> None:
    write(memory)

    assert find_panic(memory, CODE) == ""


@pytest.mark.parametrize("write", [shell, image, kmsg, quieter, edges])
def test_record_among_text_that_is_none_is_found(
    memory: GuestMemory, write: Callable[[GuestMemory], None]
) -> None:
    write(memory)
    Log(memory, RING + 8 * MIB, INFOS + 8 * MIB).add(TEXT)

    assert find_panic(memory, CODE) == TEXT.decode()


@pytest.mark.parametrize("off", [0, 1, 4])
def test_memory_that_is_made_of_texts_costs_no_more(memory: GuestMemory, off: int) -> None:
    """A guest can fill its memory with whatever makes a search look closer; *off*: bytes beside alignment."""
    hostile = ((1 << 32) - 5).to_bytes(8, "little") + TEXT + b"\0"
    hostile = hostile.ljust(-(-len(hostile) // 8) * 8, b"\0")
    memory.write(RING, hostile * (4 * MIB // len(hostile)))
    memory.write(CODE - 8 * MIB + off, PANIC * (16 * MIB // len(PANIC) if off else 1))
    infos = struct.pack("<QQHBB", 1, 0, len(TEXT), 0, 2).ljust(32, b"\0")
    if off:
        infos = infos[16:20]
    memory.write(INFOS + off, infos * (8 * MIB // len(infos)))
    begin = time.thread_time()

    assert find_panic(memory, CODE) == ""

    assert time.thread_time() - begin < (20 if INSIDE_LAB else 1)


def test_search_of_memory_in_use_takes_no_longer_than_its_budget(memory: GuestMemory) -> None:
    block = bytes(range(256)) * (MIB // 256)
    for start in (RAM, RAM + 2 * SIZE):
        for at in range(0, SIZE, MIB):
            memory.write(start + at, block)
    piece = memory.read(RAM, kernel_log.PIECE)
    took, pieces = [], []
    limit = 0.0
    while len(took) < 30 and (not took or min(took) >= limit):  # other processes take their part of the time
        begin = time.monotonic()
        assert find_panic(memory, CODE) == ""
        took.append(time.monotonic() - begin)
        begin = time.monotonic()
        piece.find(PANIC)
        pieces.append(time.monotonic() - begin)
        limit = BUDGET + 5 * statistics.median(pieces) + 0.01

    assert min(took) < limit


def test_search_of_memory_that_the_host_has_not_given_gives_it_none(memory: GuestMemory) -> None:
    begin = time.monotonic()

    assert find_panic(memory, CODE) == ""

    assert time.monotonic() - begin < (1 if INSIDE_LAB else 0.05)
