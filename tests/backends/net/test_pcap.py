"""Capture files: parsed here, and by tcpdump where there is one; bounds, and disks that fail."""

from __future__ import annotations

import shutil
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pyvmm.backends.net import pcap
from pyvmm.backends.net.base import NetBackendError
from pyvmm.backends.net.pcap import Capture
from pyvmm.virtio.net.device import Net
from tests.support.net_driver import NetDriver, Wire, frame


def records(path: Path) -> list[tuple[float, bytes]]:
    """(seconds, frame) of each record."""
    data = path.read_bytes()
    magic, major, minor, _, _, _, network = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, network) == (0xA1B23C4D, 2, 4, 1)
    found, at = [], 24
    while at < len(data):
        seconds, nanoseconds, size, length = struct.unpack_from("<IIII", data, at)
        assert size == length and nanoseconds < 10**9
        found.append((seconds + nanoseconds / 1e9, data[at + 16 : at + 16 + size]))
        assert len(found[-1][1]) == size
        at += 16 + size
    return found


def test_capture_of_a_device_has_the_frames_of_both_ways_with_their_times(tmp_path: Path) -> None:
    path = tmp_path / "net.pcap"
    wire = Wire()
    begin = time.time()
    with NetDriver(Net(wire, capture=Capture(str(path)))) as driver:
        driver.give(2048, 4096, *[4096] * 20)
        driver.send(frame(300))
        wire.arrive(frame(200))
        driver.received()
        wire.arrive(frame(60_000))
        driver.received()
        driver.send(frame(65550))

    found = records(path)
    assert [data for _, data in found] == [frame(300), frame(200), frame(60_000), frame(65550)]
    assert all(begin <= when <= time.time() for when, _ in found)
    assert path.stat().st_mode & 0o777 == 0o600


def test_capture_when_it_is_full_ends_with_a_whole_frame(tmp_path: Path) -> None:
    path = tmp_path / "net.pcap"
    capture = Capture(str(path), 24 + 3 * (16 + 100) + 50)
    capture.start()
    for n in range(10):
        capture.frame(bytes([n]) * 100)
    capture.close()

    assert [data[0] for _, data in records(path)] == [0, 1, 2]


def test_capture_whose_disk_is_slow_keeps_records_up_to_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pcap, "BACKLOG", 1000)
    capture = Capture(str(tmp_path / "net.pcap"))  # nothing is written before the start
    for _ in range(100):
        capture.frame(bytes(24))
    kept = 100 - capture.dropped
    capture.start()
    capture.close()

    assert kept == 1000 // (16 + 24)


def test_capture_when_frames_of_many_threads_were_written_counts_nothing_as_queued(tmp_path: Path) -> None:
    capture = Capture(str(tmp_path / "net.pcap"))
    capture.start()
    threads = [threading.Thread(target=lambda: [capture.frame(b"x") for _ in range(5000)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    capture.close()

    assert (capture._waiting, len(records(tmp_path / "net.pcap"))) == (0, 15_000)


def test_capture_is_opened_by_tcpdump(tmp_path: Path) -> None:
    if shutil.which("tcpdump") is None:
        pytest.skip("there is no tcpdump (Debian: apt-get install tcpdump)")
    path = tmp_path / "net.pcap"
    capture = Capture(str(path))
    capture.start()
    capture.frame(b"\xff" * 6 + b"\2" * 6 + b"\x08\x06" + bytes.fromhex("0001080006040001") + bytes(20))
    capture.close()

    done = subprocess.run(["tcpdump", "-n", "-r", path], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "ARP, Request" in done.stdout


def test_capture_when_its_disk_is_full_stops_and_disturbs_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    capture = Capture.__new__(Capture)
    with pytest.raises(NetBackendError, match="No space left"):
        capture.__init__("/dev/full")  # type: ignore[misc]


def test_capture_when_its_file_cannot_be_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(NetBackendError, match="choose another file"):
        Capture(str(tmp_path / "nowhere" / "net.pcap"))
