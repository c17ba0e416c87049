"""What reaches standard error: printable, bounded, limited, and never waited for by a guest."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvmm.cli.messages import LIMIT, message, write_line
from pyvmm.cli.report_handler import ReportHandler
from pyvmm.host.rate_limit import BURST, PERIOD

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log() -> logging.Logger:
    """A logger whose one handler is a fresh one of the command line's."""
    logger = logging.Logger("tests.messages")
    logger.addHandler(ReportHandler())
    return logger


@contextmanager
def full_pipe() -> Iterator[int]:
    """Standard error is a pipe that is full; the end to read."""
    reader, writer = os.pipe()
    kept = os.dup(2)
    os.dup2(writer, 2)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    try:
        yield reader
    finally:
        os.dup2(kept, 2)
        for fd in (reader, writer, kept):
            os.close(fd)


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data


def test_record_is_one_printable_line(log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    log.warning("guest said %s", "\x1b[2J\nand " + "x" * 100_000)

    said = capfd.readouterr().err
    assert said.startswith("pyvmm: guest said \\x1b[2J and xxx")
    assert said.count("\n") == 1 and len(said) <= LIMIT + len("pyvmm: \n")


def test_record_with_an_exception_names_it(log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("nine is too many")
    except ValueError:
        log.exception("it failed")
    log.warning("%d pieces", "three")

    assert capfd.readouterr().err == "pyvmm: it failed: ValueError: nine is too many\npyvmm: %d pieces\n"


def test_records_of_one_call_site_are_limited_and_counted(
    log: logging.Logger, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("pyvmm.host.rate_limit.time.monotonic", lambda: now[0])

    for n in range(1000):
        if n == 999:
            now[0] += PERIOD
        log.warning("the guest did %d", n)
    log.warning("another site")

    lines = capfd.readouterr().err.splitlines()
    assert lines[:BURST] == [f"pyvmm: the guest did {n}" for n in range(BURST)]
    assert lines[BURST:] == [
        "pyvmm: the guest did 999 (994 more like this were not shown)",
        "pyvmm: another site",
    ]


def test_records_below_a_warning_are_not_limited(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    for n in range(100):
        log.info("%d", n, extra={"plain": True})

    assert capfd.readouterr().err.splitlines() == [str(n) for n in range(100)]


def test_record_for_a_pipe_that_is_full_is_dropped_and_counted(log: logging.Logger) -> None:
    done = threading.Event()

    def report() -> None:
        for _ in range(BURST):
            log.warning("nobody reads this")
        done.set()

    with full_pipe() as reader:
        threading.Thread(target=report, daemon=True).start()
        waited = done.wait(20)
        before = read_all(reader)
        log.warning("somebody reads this")
        after = read_all(reader)

    assert waited, "the handler waits for the pipe"
    assert b"nobody" not in before
    assert after.decode() == (
        f"pyvmm: {BURST} lines were dropped: nobody read them\npyvmm: somebody reads this\n"
    )


def test_standard_error_stays_as_it_was_for_others() -> None:
    with full_pipe():
        write_line("x")
        flags = fcntl.fcntl(2, fcntl.F_GETFL)

    assert not flags & os.O_NONBLOCK


def test_message_waits_for_a_reader_that_is_late() -> None:
    with full_pipe() as reader:
        timer = threading.Timer(0.1, lambda: os.read(reader, 1 << 20))
        timer.start()
        message("at last")
        timer.join()
        said = read_all(reader)

    assert said == b"pyvmm: at last\n"


def test_message_that_nobody_reads_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm.cli.messages.PATIENCE", 0.2)

    with full_pipe():
        began = time.monotonic()
        message("nobody reads this")
        took = time.monotonic() - began

    assert 0.1 < took < 20


def test_message_when_standard_error_is_closed_is_nothing() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; os.close(2)\nfrom pyvmm.cli.messages import message; message('x')",
        ],
        cwd=ROOT,
        check=False,
    )

    assert done.returncode == 0


# The library


def test_library_reports_through_logging_alone() -> None:
    program = (
        "import logging, io, sys\n"
        "stream = io.StringIO()\n"
        "logging.basicConfig(stream=stream, format='%(name)s %(levelname)s %(module)s %(message)s')\n"
        "from pyvmm.backends.file import OutputFile\n"
        "from pyvmm.loop import Loop\n"
        "with Loop() as loop:\n"
        "    file = OutputFile('/dev/full')\n"
        "    file.attach(loop, print, lambda: 0)\n"
        "    file.write(b'x')\n"
        "print(stream.getvalue(), end='')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("pyvmm.backends.file WARNING file console file /dev/full: No space left")
    assert done.stderr == ""


def test_configuration_on_the_page_does_what_it_says(tmp_path: Path) -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "guide" / "logging.md").read_text(), re.DOTALL
    )
    program = code + (
        "from pyvmm.host.notice import notice\n"
        "logging.getLogger('pyvmm.virtio.device').warning('about a driver')\n"
        "logging.getLogger('pyvmm.images.debian').info('fetching')\n"
        "notice('here', 'about the host')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )

    lines = (tmp_path / "vmm.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "pyvmm.images.debian: fetching",
        "__main__: about the host",
    ]
    assert done.stderr == b""


def test_nothing_below_the_command_line_names_standard_error() -> None:
    found = []
    for path in sorted((ROOT / "pyvmm").rglob("*.py")):
        place = path.relative_to(ROOT / "pyvmm").parts[0]
        text = path.read_text()
        if place != "cli" and ("sys.stderr" in text or "os.write(2" in text):
            found.append(str(path))

    assert found == []
