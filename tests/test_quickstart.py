"""The quickstart's output in a log: lines that a terminal draws again and again are written once."""

from __future__ import annotations

import io
import sys
import time
from types import ModuleType

import pytest

from tests.support.repository import script


@pytest.fixture(scope="module")
def quickstart() -> ModuleType:
    return script("quickstart")


def test_line_that_is_drawn_forty_times_is_written_once(quickstart: ModuleType) -> None:
    stream = io.BytesIO()
    output = quickstart.Output(stream, redraws=False)

    for n in range(40):
        output.feed(f"\rstarting ... {n} s".encode())
    output.feed(b"\r\nLinux\r\n# un")
    output.feed(b"ame\r\n")
    output.end()

    assert stream.getvalue() == b"starting ... 39 s\nLinux\n# uname\n"


def test_line_that_is_not_finished_is_written_now_and_then(quickstart: ModuleType) -> None:
    stream = io.BytesIO()
    output = quickstart.Output(stream, redraws=False, interval=0)

    for n in (1, 1, 2):
        output.feed(f"\rstarting ... {n} s".encode())
        output.now_and_then()
        output.now_and_then()
    output.end()

    assert stream.getvalue() == b"starting ... 1 s\nstarting ... 2 s\nstarting ... 2 s\n"


def test_line_that_is_drawn_all_the_time_is_written_at_intervals(quickstart: ModuleType) -> None:
    stream = io.BytesIO()
    output = quickstart.Output(stream, redraws=False, interval=0.1)
    begun = time.monotonic()

    while time.monotonic() < begun + 0.5:
        output.feed(f"\r{time.monotonic()} s".encode())
        output.now_and_then()

    assert 1 <= stream.getvalue().count(b"\n") <= 5


def test_terminal_gets_everything_as_it_came(quickstart: ModuleType) -> None:
    stream = io.BytesIO()
    quickstart.Output(stream, redraws=True).feed(b"\r1\r2")

    assert stream.getvalue() == b"\r1\r2"


def test_command_whose_output_goes_into_a_log_is_typed_at(
    quickstart: ModuleType, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "TYPED", ("hello",))
    code = (
        "import sys\n"
        "for n in range(40): sys.stdout.write(f'\\rstarting ... {n} s')\n"
        "sys.exit(3 if input('\\n# ') == 'hello' else 4)\n"
    )

    status = quickstart.typed([sys.executable, "-c", code])

    assert status == 3
    said = capfdbinary.readouterr().out
    assert said.count(b"starting") == 1 and b"starting ... 39 s\n" in said
