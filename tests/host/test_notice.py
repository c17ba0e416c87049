"""Sentences a guest can cause: a few, then one now and then that says how many were not shown."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from pyvmm.host import rate_limit
from pyvmm.host.notice import LENGTH, limit, notice
from pyvmm.host.rate_limit import BURST, PERIOD


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: now[0])
    limit.sites.clear()
    yield now
    limit.sites.clear()


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


def test_notice_when_new_is_told_on_stderr(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    assert notice("here", "the guest did that") is True
    assert lines(capfd) == ["pyvmm: the guest did that"]


def test_notice_when_repeated_a_million_times_is_told_a_few(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    told = sum(notice("here", f"the guest did {n}") for n in range(100_000))

    assert told == BURST == len(lines(capfd))
    assert len(limit.sites) == 1


def test_notice_when_time_has_passed_is_told_again_with_what_was_not(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(BURST + 7):
        notice("here", "again")
    clock[0] += PERIOD

    assert notice("here", "again") is True
    assert lines(capfd)[-1] == "pyvmm: again (7 more like this were not shown)"
    assert notice("here", "again") is False


def test_notice_when_time_was_long_has_no_more_than_a_burst(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    notice("here", "once")
    clock[0] += 1000 * PERIOD

    assert sum(notice("here", "flood") for _ in range(100)) == BURST


def test_notice_when_another_site_was_flooded_is_told(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(100):
        notice("here", "flood")

    assert notice("there", "something else") is True
    assert lines(capfd)[-1] == "pyvmm: something else"


def test_notice_when_stderr_is_closed_does_not_raise(clock: list[float]) -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        assert notice("here", "nobody reads this") is True
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_notice_when_the_guests_words_are_not_text_is_told(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    assert notice("here", "\udcff\x00") is True
    assert len(lines(capfd)) == 1


def test_notice_with_text_of_others_is_one_printable_line_for_every_handler(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where a program has a handler of its own, such as a file's."""
    for _ in range(BURST + 3):
        notice("here", "it said \x1b[2J\nERROR forged " + "x" * 100_000)
    clock[0] += PERIOD
    notice("here", "it said \x1b[2J\nERROR forged " + "x" * 100_000)

    said = caplog.messages
    assert said[0].startswith("it said \\x1b[2J ERROR forged xxx")
    assert len(said[0]) == LENGTH
    assert said[-1] == f"{said[0]} (3 more like this were not shown)"


def test_notice_when_many_threads_speak_tells_no_more_than_a_burst(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    threads = [
        threading.Thread(target=lambda: [notice("here", "together") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lines(capfd)) == BURST
