"""What is kept of the console's text, and what in it is worth a look, in pieces of any size."""

from __future__ import annotations

import tracemalloc

import pytest

from pyvmm.machine.console_log import TAIL, ConsoleLog

LINE = b"[    1.234567] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n"


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def log(told: list[int]) -> ConsoleLog:
    return ConsoleLog(lambda: told.append(1))


@pytest.mark.parametrize("size", [1, 2, 7, 26])
def test_panic_when_it_comes_in_pieces_is_told_each_time(log: ConsoleLog, told: list[int], size: int) -> None:
    text = b"Booting\r\n" * 3 + LINE + LINE + b"---[ end ]---\n"

    for at in range(0, len(text), size):
        log.feed(text[at : at + size])

    assert told == [1, 1]


def test_panic_when_its_line_is_not_whole_waits_for_the_end(log: ConsoleLog, told: list[int]) -> None:
    log.feed(LINE.rstrip())
    assert told == []

    log.feed(b"\n")

    assert told == [1]


def test_panic_when_behind_a_line_without_end_is_found(log: ConsoleLog, told: list[int]) -> None:
    for _ in range(3 * TAIL // 50):
        log.feed(b"." * 50)
    for byte in LINE:
        log.feed(bytes((byte,)))

    assert told == [1]


def test_text_that_only_speaks_of_a_panic_is_none(log: ConsoleLog, told: list[int]) -> None:
    log.feed(b"Kernel panic - not syncing: test\n---[ end Kernel \npanic\n")

    assert told == []


@pytest.mark.parametrize("size", [1, 999, 5 * TAIL])
def test_tail_when_much_was_said_is_the_last_16_kib(log: ConsoleLog, size: int) -> None:
    text = bytes(ord("a") + at // 1000 % 26 for at in range(5 * TAIL))

    for at in range(0, len(text), size):
        log.feed(text[at : at + size])

    assert log.text() == text[-TAIL:].decode()


def test_memory_when_lines_never_end_is_bounded(log: ConsoleLog) -> None:
    chunk = b"x" * 50_000
    log.feed(chunk)
    tracemalloc.start()
    try:
        for _ in range(100):
            log.feed(chunk)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert kept <= 2 * TAIL + 4096 + len(chunk)
