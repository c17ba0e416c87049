"""The lines of a trace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.cli.report_handler import show_trace
from pyvmm.errors import StartError
from pyvmm.virtio.tools.trace import Trace, TraceFile
from pyvmm.virtio.transport import mmio
from tests.virtio.tools.devices import Shout, observed


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """What a trace of a short life says, without the times."""
    device = Shout()
    with observed(device, Trace(device, TraceFile(str(tmp_path / "trace")))) as driver:
        driver.probe()
        driver.request(0, [b"quiet" * 20], [200])
        driver.queues[0].add_buffers([(1 << 60, 16, 0)])
        driver.queues[0].kick()
        driver.run()
        driver.config(4, 1)
        driver.config(2, 2)
        driver.config(200, 4)
        driver.read(0x72, 2)
        driver.read(mmio.DEVICE_ID)
        device.config_changed()
        driver.acknowledge()
    text = (tmp_path / "trace").read_text()
    assert all(re.match(r"\[ +\d+\.\d{6}\] shout ", line) for line in text.splitlines())
    return [re.sub(r"\d+ us", "N us", line.partition("] shout ")[2]) for line in text.splitlines()]


@pytest.mark.parametrize(
    "line",
    [
        "write Status <- 0x0 (reset)",
        "write Status <- 0xb (ACKNOWLEDGE DRIVER FEATURES_OK)",
        "read  DeviceFeatures -> 0x30000001 (word 0: LOUD, INDIRECT_DESC, EVENT_IDX)",
        "read  DeviceFeatures -> 0x1 (word 1: VERSION_1)",
        "write QueueSel <- 1",
        "read  QueueSizeMax -> 8",
        "write QueueSize <- 8",
        "write QueueDescLow <- 0x100000",
        "started, features LOUD, INDIRECT_DESC, EVENT_IDX, VERSION_1; queues 0: 8, 1: 4",
        "kick  queue 0",
        "irq   used buffers",
        "used  queue 0 head 0: refused, a broken chain; 0 written",
        "read  config volume -> 0x0",
        "read  config count[2:4] -> 0x0",
        "read  config 0xc8:0xcc, past the end -> 0x0",
        "read  of 2 bytes at 0x072, no register -> 0x0",
        "read  DeviceID -> 99 (unknown to pyvmm)",
        "irq   configuration change",
        "read  InterruptStatus -> 0x3 (used buffer configuration change)",
        "write InterruptACK <- 0x3 (used buffer configuration change)",
        "stopped",
    ],
)
def test_trace_has_the_line(lines: list[str], line: str) -> None:
    assert line in lines


def test_request_is_described_by_its_device_and_shown_as_far_as_a_line_goes(lines: list[str]) -> None:
    asked = next(line for line in lines if line.startswith("chain"))
    answered = next(line for line in lines if line.startswith("used"))

    assert asked.startswith("chain queue 0 head 0: 100 bytes to read, room for 200: shout quietquiet")
    assert asked.endswith(" | " + (b"quiet" * 7)[:32].hex(" ") + " ...")
    assert answered == "used  queue 0 head 0: 100 written in N us | " + (b"QUIET" * 7)[:32].hex(" ") + " ..."


def test_trace_without_a_file_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    show_trace()
    device = Shout()
    with observed(device, Trace(device)) as driver:
        driver.read(mmio.VERSION)

    assert "shout read  Version -> 2\n" in capfd.readouterr().err


def test_trace_when_nobody_reads_it_any_more_does_not_stop_the_device(tmp_path: Path) -> None:
    device = Shout()
    with observed(device, Trace(device, TraceFile("/dev/full"))) as driver:
        driver.probe()

        assert driver.request(0, [b"a"], [1]) == b"A"


def test_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"--trace-device: .*nowhere/trace cannot be written: No such file"):
        TraceFile(str(tmp_path / "nowhere" / "trace"))


def test_request_whose_description_has_the_guests_text_is_one_printable_line(tmp_path: Path) -> None:
    class Repeating(Shout):
        def describe(self, queue: int, request: bytes) -> str:
            return request.decode()

    device = Repeating()
    with observed(device, Trace(device, TraceFile(str(tmp_path / "trace")))) as driver:
        driver.probe()
        driver.request(0, [b"\x1b[2J\n[ forged"], [1])

    text = (tmp_path / "trace").read_text()
    assert "\x1b" not in text and "\\x1b[2J [ forged" in text
    assert all(line.startswith("[ ") and "] shout " in line for line in text.splitlines())


def test_describe_that_fails_is_told_in_the_line_and_the_device_goes_on(tmp_path: Path) -> None:
    class Mumbling(Shout):
        def describe(self, queue: int, request: bytes) -> str:
            return str(1 // 0)

    device = Mumbling()
    with observed(device, Trace(device, TraceFile(str(tmp_path / "trace")))) as driver:
        driver.probe()
        answer = driver.request(0, [b"a"], [1])

    assert answer == b"A"
    assert "(its describe failed in describe, " in (tmp_path / "trace").read_text()
