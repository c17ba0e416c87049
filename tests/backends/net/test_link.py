"""The cable between two processes: who listens, coming and going, backpressure, hostile headers."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.net.base import NetBackendError
from pyvmm.backends.net.link import Link
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.net.header import LAYOUT
from tests.support.net_driver import HEADER, NetDriver, frame
from tests.support.other_user import UID, listening, needs_root


def end_of(path: Path) -> NetDriver:
    return NetDriver(Net(Link(str(path))))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[NetDriver, NetDriver]]:
    """Two drivers, joined."""
    with end_of(tmp_path / "cable") as one, end_of(tmp_path / "cable") as two:
        joined(one, two)
        yield one, two


def joined(*drivers: NetDriver, up: bool = True) -> None:
    """Turn the loops until each driver's link is up, or down."""
    while not all(driver.device.link_up is up for driver in drivers):
        for driver in drivers:
            driver.loop.run_once(0.01)


def pass_on(sender: NetDriver, receiver: NetDriver, data: bytes) -> list[bytes]:
    receiver.give(70_000, 70_000)
    sender.send(data)
    got: list[bytes] = []

    def arrived() -> bool:
        got.extend(receiver.received())
        return bool(got)

    receiver.run(arrived)
    return got


def test_frames_go_both_ways(ends: tuple[NetDriver, NetDriver]) -> None:
    one, two = ends

    assert pass_on(one, two, frame(65550)) == [frame(65550)]
    assert pass_on(two, one, frame(60)) == [frame(60)]


def test_two_ends_have_different_addresses(ends: tuple[NetDriver, NetDriver]) -> None:
    assert ends[0].device.mac != ends[1].device.mac


def test_link_is_down_until_there_are_two_ends(tmp_path: Path) -> None:
    with end_of(tmp_path / "cable") as one:
        alone = one.config(6, 2)
        lost = one.send(frame(60)).done
        with end_of(tmp_path / "cable") as two:
            joined(one, two)
            together = one.config(6, 2)
        joined(one, up=False)

        assert (alone, lost, together, one.config(6, 2)) == (0, True, 1, 0)


@pytest.mark.parametrize("who", ["listens", "connects"])
def test_end_that_went_away_comes_back_and_the_other_goes_on(tmp_path: Path, who: str) -> None:
    path = tmp_path / "cable"
    first, second = end_of(path), end_of(path)
    joined(first, second)
    leaver, stayer = (first, second) if who == "listens" else (second, first)

    leaver.close()
    joined(stayer, up=False)
    back = end_of(path)
    joined(stayer, back)

    assert pass_on(back, stayer, frame(100)) == [frame(100)]
    assert pass_on(stayer, back, frame(101)) == [frame(101)]
    back.close()
    stayer.close()
    assert list(tmp_path.iterdir()) == []


def test_socket_left_behind_by_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "cable"
    code = (
        "import os, signal, sys\nfrom pyvmm.loop import Loop\nfrom pyvmm.backends.net.link import Link\n"
        "link = Link(sys.argv[1])\nlink.attach(Loop())\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=30)
    left = stat.S_ISSOCK(path.stat().st_mode)

    with end_of(path) as one, end_of(path) as two:
        joined(one, two)

        assert left
        assert pass_on(one, two, frame(100)) == [frame(100)]


def test_third_end_is_turned_away_and_the_two_go_on(
    ends: tuple[NetDriver, NetDriver], tmp_path: Path
) -> None:
    one, two = ends
    with end_of(tmp_path / "cable") as three:
        for _ in range(20):
            three.loop.run_once(0.01)
            one.loop.run_once(0.01)

        assert pass_on(one, two, frame(100)) == [frame(100)]


def test_frames_when_the_other_end_does_not_read_wait_and_all_arrive(
    ends: tuple[NetDriver, NetDriver],
) -> None:
    one, two = ends
    for n in range(100):
        one.tx.add([bytes(HEADER) + frame(60_000 + n)])
    one.tx.kick()
    one.run()
    early = len(one.tx.collect())
    got: list[bytes] = []
    while len(got) < 100:
        two.give(70_000)
        one.run()
        got += two.received()

    assert early < 100
    assert got == [frame(60_000 + n) for n in range(100)]


def test_other_end_when_it_leaves_while_the_driver_has_no_buffers_keeps_no_loop_busy(
    ends: tuple[NetDriver, NetDriver],
) -> None:
    one, two = ends
    one.send(frame(60))
    two.run()
    one.close()
    joined(two, up=False)

    assert sum(two.loop.run_once(0) for _ in range(20)) <= 1  # the attempt to reach it again


def test_stranger_at_the_socket_can_send_garbage_and_harm_nobody(tmp_path: Path) -> None:
    with end_of(tmp_path / "cable") as one:
        one.give(2048, 2048)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(tmp_path / "cable"))
            joined(one)
            for data in (b"x", os.urandom(25), bytes(80_000), LAYOUT.pack(1, 99, 9, 9, 9, 9, 9) + frame(60)):
                stranger.send(data)
            stranger.send(bytes(HEADER) + frame(61))
            got: list[bytes] = []
            one.run(lambda: got.extend(one.received()) or got)

        assert got == [frame(61)]


@needs_root
def test_end_of_another_user_gets_no_frames(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cable"
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with listening(path, socket.SOCK_SEQPACKET), end_of(path) as one:
            up = one.device.link_up

    assert not up
    assert f"user {UID} listens there" in capfd.readouterr().err


def test_path_when_it_cannot_be_used_says_so(tmp_path: Path) -> None:
    with pytest.raises(NetBackendError, match="longer than 107 bytes"):
        Link("/tmp/" + "x" * 200)
    with pytest.raises(NetBackendError, match="choose another path"):
        Link(str(tmp_path / "nowhere" / "cable"))
