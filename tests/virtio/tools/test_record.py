"""Recordings: written, cut off, played again."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import ConfigError, StartError
from pyvmm.testing.replay import Replay
from pyvmm.virtio.device import DEFERRED, Deferred
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.tools import record
from pyvmm.virtio.tools.record import Recorder, Recording, RecordingError
from tests.virtio.tools.devices import Shout, observed


def recorded(path: Path, limit: int = record.LIMIT) -> str:
    """A life with two starts, a kept buffer and accesses to the configuration space."""
    device = Shout()
    with observed(device, Recorder(str(path), limit).serve(device)) as driver:
        driver.probe()
        for text in (b"one", b"two" * 100):
            driver.request(0, [text[:1], text[1:]], [2, 400])
        driver.queues[1].add([b"later"], [8])
        driver.queues[1].kick()
        driver.run()
        driver.write(0x104, 1, 9)
        driver.config(0, 4)
        driver.probe()
        driver.request(0, [b"again"], [16])
    return str(path)


def kinds(path: str) -> list[int]:
    return [entry.kind for entry in Recording(path)]


def test_recording_has_everything_in_its_order(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r")

    assert kinds(path) == [1, 3, 4, 3, 4, 3, 6, 5, 2, 1, 3, 4, 2]


def test_recording_when_it_is_read_gives_what_was_said(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path / "r"))
    entries = list(recording)

    assert (recording.name, recording.device_id, recording.cut) == ("shout", 99, 0)
    assert entries[0].start()[1] == [8, 4]
    assert entries[1].request() == ([b"o", b"ne"], [2, 400])
    assert entries[2].result() == (3, b"ONE")
    assert entries[6].config() == (4, 1, 9)
    assert [entry.seconds for entry in entries] == sorted(entry.seconds for entry in entries)


def test_recording_when_it_is_cut_anywhere_is_good_up_to_there(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r")
    whole = kinds(path)
    data = Path(path).read_bytes()
    part = tmp_path / "part"
    begin = record.HEADER.size + len(b"shout")

    for size in range(begin, len(data)):
        part.write_bytes(data[:size])
        recording = Recording(str(part))
        found = [entry.kind for entry in recording]
        assert found == whole[: len(found)]
        assert recording.cut == 0 or len(found) < len(whole)


def test_recording_when_it_is_full_says_so_and_stays_within_its_limit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path / "r", limit=400)

    assert kinds(path)[-1] == record.FULL
    assert os.path.getsize(path) <= 400
    assert "is full; the recording ends here" in capfd.readouterr().err


def test_recording_when_the_disk_is_full_leaves_the_device_alone(capfd: pytest.CaptureFixture[str]) -> None:
    recorded(Path("/dev/full"))

    assert "/dev/full: No space left on device; the recording ends" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is no recording"),
        (b"x" * 100, "is no recording"),
        (record.HEADER.pack(record.MAGIC, 2, 0, 4, 0), "has format version 2, and this pyvmm reads 1"),
    ],
)
def test_file_that_is_no_recording_is_one_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "r").write_bytes(data)

    with pytest.raises(RecordingError, match=sentence):
        Recording(str(tmp_path / "r"))


def test_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        Recording(str(tmp_path / "r"))


def test_recording_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"--record: .* cannot be written: No such file"):
        Recorder(str(tmp_path / "nowhere" / "r"))


def test_replay_when_the_device_is_the_same_finds_no_difference(tmp_path: Path) -> None:
    replay = Replay(Recording(recorded(tmp_path / "r")), Shout())

    assert replay.run(), list(map(str, replay.differences))
    assert (replay.requests, replay.results, replay.accesses) == (4, 3, 2)


def test_replay_when_an_answer_differs_names_the_entry_and_the_byte(tmp_path: Path) -> None:
    replay = Replay(Recording(recorded(tmp_path / "r")), Shout(answer=b"ONE"))

    assert not replay.run()
    assert [difference.number for difference in replay.differences] == [5, 12]
    assert "queue 0: 3 bytes instead of 300" in str(replay.differences[0])


def test_replay_when_a_byte_differs_says_which(tmp_path: Path) -> None:
    replay = Replay(Recording(recorded(tmp_path / "r")), Shout(answer=b"OnE"))
    replay.run()

    assert "queue 0: byte 1 of 3 is 0x6e instead of 0x4e" in str(replay.differences[0])


def test_replay_when_no_answer_comes_says_so(tmp_path: Path) -> None:
    class Silent(Shout):
        def handle(self, queue: int, chain: object) -> Deferred:
            return DEFERRED

    replay = Replay(Recording(recorded(tmp_path / "r")), Silent(), patience=0.05)
    replay.run()

    assert "queue 0: no answer within 0.05 seconds" in str(replay.differences[0])


def test_replay_to_a_device_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recorded from a device with id 99, and rng has 4"):
        Replay(Recording(recorded(tmp_path / "r")), Rng())


def test_replay_when_an_entry_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r")
    data = bytearray(Path(path).read_bytes())
    at = record.HEADER.size + 5
    while data[at] != record.REQUEST:
        at += record.ENTRY.size + record.ENTRY.unpack_from(data, at)[3]
    data[at + record.ENTRY.size] = 200  # more readable buffers than there are
    Path(path).write_bytes(data)

    with pytest.raises(RecordingError, match="entry 2 is damaged"):
        Replay(Recording(path), Shout()).run()


def test_replay_when_a_queue_is_silent_waits_once_and_not_for_every_answer(tmp_path: Path) -> None:
    class Silent(Shout):
        def handle(self, queue: int, chain: object) -> Deferred:
            return DEFERRED

    device, path = Shout(), str(tmp_path / "r")
    with observed(device, Recorder(path).serve(device)) as driver:
        driver.probe()
        for _ in range(5):
            driver.request(0, [b"x"], [1])
    replay = Replay(Recording(path), Silent(), patience=0.2)
    began = time.monotonic()
    replay.run()

    assert replay.count == 5
    assert time.monotonic() - began < 0.9


@given(at=st.integers(0, 10_000), bits=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_replay_of_a_file_with_a_flipped_byte_ends_with_a_verdict_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, at: int, bits: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    path = folder / "recording"
    if not path.exists():
        recorded(path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= bits
    (folder / "flipped").write_bytes(data)

    with contextlib.suppress(ConfigError):
        Replay(Recording(str(folder / "flipped")), Shout(), patience=0.01).run()
