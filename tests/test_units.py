"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest

from pyvmm.errors import ConfigError
from pyvmm.units import format_size, parse_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256M", 256 << 20),
        ("256MiB", 256 << 20),
        ("256mb", 256 << 20),
        ("4.5G", 9 << 29),
        ("0x1000", 4096),
        ("0xB", 11),
        ("17", 17),
        (4096, 4096),
        ("1T", 1 << 40),
    ],
)
def test_parse_size_reads_what_people_write(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "0", "1.5", "1X", "256 M M", "0x", "nan", "1e400G", True, "9999999T"]
)
def test_parse_size_refuses_by_name(text: str | int) -> None:
    with pytest.raises(ConfigError, match=r"^memory: .*write it like"):
        parse_size(text, "memory")


def test_format_size_takes_the_largest_unit_that_divides() -> None:
    assert [format_size(n) for n in (1 << 30, 3 << 20, 4096, 5)] == ["1G", "3M", "4K", "5"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("1.5s", 1.5), ("200ms", 0.2), ("5m", 300), (2, 2)]
)
def test_parse_seconds_reads_what_people_write(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1", "0", "1d", "nan", "inf", "1e12"])
def test_parse_seconds_refuses_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^timeout: "):
        parse_seconds(text, "timeout")
