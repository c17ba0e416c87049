"""Text of others: one line, bounded, with nothing in it that drives a terminal."""

from __future__ import annotations

import time

import pytest

from pyvmm.host.printable import printable


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain text, \N{SNOWMAN}", "plain text, \N{SNOWMAN}"),
        ("two\r\nlines\n\tand  more\n", "two lines and  more"),
        ("\x1b[2J\x07\x9b", "\\x1b[2J\\x07\\x9b"),
        ("right \u202eto left", "right \\u202eto left"),
        ("\x00\udcff", "\\x00\\udcff"),
        (b"bytes \xff\x1b", "bytes \N{REPLACEMENT CHARACTER}\\x1b"),
        (b"\xe2\x98\x83", "\N{SNOWMAN}"),
        ("", ""),
    ],
)
def test_printable_escapes_what_is_not(text: str | bytes, want: str) -> None:
    assert printable(text) == want
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["a" * 51, "\x1b" * 50, b"\xff" * 1000, "a b " * 1000, "a" * (1 << 20)])
def test_printable_leaves_the_middle_out_of_what_is_too_long(text: str | bytes) -> None:
    line = printable(text, 50)

    assert len(line) == 50
    assert "..." in line


def test_printable_keeps_the_end_of_a_sentence() -> None:
    line = printable(f"{'9' * 5000} is not a number; give one", 100)

    assert line.startswith("9999") and line.endswith("; give one")


def test_printable_of_a_hundred_megabytes_takes_no_time() -> None:
    text = b"\x1b\n" * (50 << 20)
    began = time.process_time()

    printable(text)

    assert time.process_time() - began < 0.05
