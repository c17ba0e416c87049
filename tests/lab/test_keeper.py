"""The keeper of a machine, with a stand-in for QEMU that answers at once."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pyvmm.lab import image, inside, keeper, lease, machine
from pyvmm.lab.channel import LabChannel
from pyvmm.lab.errors import LabError, LabLostError

LIMIT = 20
FAKE = Path(__file__).parents[1] / "support" / "fake_qemu.py"


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A state directory and a PATH with the stand-in; gives a function that counts its starts."""
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    root = FAKE.parents[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -S {FAKE} "$@"\n')
    program.chmod(0o755)
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_QEMU_STARTS", str(starts))
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield lambda: starts.stat().st_size


@contextlib.contextmanager
def kept(*, once=False, cpus=1, version=""):
    """A keeper that runs in a thread; gives its machine, and at the end waits for the keeper's."""
    wanted = machine.LabMachine(cpus=cpus, version=version)
    one = keeper.Keeper(wanted, image.Image(Path("/kernel"), Path("/initrd")), once=once)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield wanted
    finally:
        one.end("the test is over")
        thread.join(LIMIT)
        assert not thread.is_alive()


def borrow(wanted, states=None):
    return lease.borrow(wanted, (states if states is not None else []).append, print)


def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_channel_when_given_back_can_be_lent_again(stage):
    with kept() as wanted:
        for _ in range(inside.CHANNELS + 2):
            with borrow(wanted):
                # The one before may still be on its way back.
                until(lambda: lease.ask(wanted.directory, "status")["lent"] == 1)
        until(lambda: lease.ask(wanted.directory, "status")["lent"] == 0)
    assert stage() == 1


def test_channels_when_lent_at_the_same_time_differ(stage):
    with kept() as wanted, borrow(wanted) as one, borrow(wanted) as other:
        assert one.path != other.path


def test_borrow_when_all_channels_are_lent_says_so_and_waits(stage, monkeypatch):
    monkeypatch.setattr(keeper, "PATIENCE", 0.05)
    states = []
    with kept() as wanted, contextlib.ExitStack() as stack:
        lent = [stack.enter_context(borrow(wanted)) for _ in range(inside.CHANNELS)]
        waiter = threading.Thread(target=lambda: borrow(wanted, states).close())
        waiter.start()
        until(lambda: "busy" in states)
        lent[3].close()
        waiter.join(LIMIT)
        assert not waiter.is_alive()


def test_start_when_the_host_hangs_is_tried_again_then_given_up(stage, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", "hang")
    monkeypatch.setattr(keeper, "START_LIMIT", 0.7)

    with kept() as wanted, pytest.raises(LabError, match=r"did not answer within 0.7 s.*\.log"):
        borrow(wanted)

    assert stage() == keeper.START_ATTEMPTS


def test_command_when_the_host_stops_answering_is_told(stage, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("FAKE_QEMU", "stop")
    monkeypatch.setenv("FAKE_QEMU_STOP", str(tmp_path / "stop"))
    monkeypatch.setattr(keeper, "PULSE", 0.05)
    monkeypatch.setattr(keeper, "PULSE_LIMIT", 0.7)

    with kept() as wanted, borrow(wanted) as lent, LabChannel(lent.path) as channel:
        assert channel.call(["true"], LIMIT)[0] == 0
        (tmp_path / "stop").touch()

        with pytest.raises(LabLostError, match="the emulated host ended"):
            channel.call(["true"], LIMIT)
        until(lambda: not wanted.directory.exists())
    assert "did not answer within 0.7 s" in capfd.readouterr().out


def test_start_when_qemu_ends_at_once_says_so(stage, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", "die")

    with kept() as wanted, pytest.raises(LabError, match="ended with status 3"):
        borrow(wanted)


def test_start_when_files_cannot_be_mounted_gives_what_the_host_said(stage, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", "refuse")

    with kept() as wanted, pytest.raises(LabError, match="as it was told"):
        borrow(wanted)


def test_keeper_when_unused_for_long_ends_and_leaves_nothing(stage, monkeypatch):
    monkeypatch.setattr(keeper, "IDLE", 0.05)
    with kept() as wanted:
        borrow(wanted).close()
        until(lambda: not wanted.directory.exists())
        assert lease.ask(wanted.directory, "status") is None


def test_keeper_when_for_one_command_ends_with_it(stage):
    with kept(once=True) as wanted:
        borrow(wanted).close()
        until(lambda: not wanted.directory.exists())


def test_keeper_when_retired_ends_after_its_last_command(stage):
    with kept() as wanted:
        with borrow(wanted):
            lease.ask(wanted.directory, "retire")
            assert lease.ask(wanted.directory, "status")["lent"] == 1
        until(lambda: not wanted.directory.exists())


def test_keeper_when_stopped_answers_after_the_machine_is_gone(stage):
    with kept() as wanted:
        borrow(wanted).close()
        machine.log_path(wanted).touch()
        lease.ask(wanted.directory, "stop")

        assert not wanted.directory.exists()
        assert not machine.log_path(wanted).exists()


def test_keeper_when_a_stranger_sends_nonsense_goes_on(stage):
    import socket

    with kept() as wanted:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(machine.control_path(wanted.directory)))
            stranger.sendall(b"[nonsense\n")
            assert stranger.recv(100) == b""
        borrow(wanted).close()


def test_borrow_when_the_machine_ends_meanwhile_is_told_that_another_may_do(stage, monkeypatch):
    monkeypatch.setattr(lease, "ATTEMPTS", 1)
    with kept() as wanted, contextlib.ExitStack() as stack:
        for _ in range(inside.CHANNELS):
            stack.enter_context(borrow(wanted))
        states = []
        problems = []

        def wait():
            try:
                borrow(wanted, states)
            except LabLostError as error:
                problems.append(str(error))

        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: "busy" in states)
        lease.ask(wanted.directory, "stop")
        waiter.join(LIMIT)
    assert problems == ["the emulated host was stopped"]


def test_use_when_the_machine_does_not_answer_tries_another(stage, monkeypatch):
    tried = []

    def work(lent, channel):
        tried.append(lent.number)
        raise LabLostError("it is silent")

    with contextlib.ExitStack() as stack:
        wanted = stack.enter_context(kept())

        def start(*_, **__):
            stack.enter_context(kept())
            return lease._connect(wanted.directory)

        monkeypatch.setattr(lease, "_start", start)
        with pytest.raises(LabLostError):
            lease.use(wanted, work, lambda state: None, print)
    assert len(tried) == 2
    assert stage() == 2


def test_use_when_the_command_has_begun_does_not_run_it_again(stage):
    tried = []

    def work(lent, channel):
        tried.append(channel.call(["true"], LIMIT))
        raise LabLostError("it is gone")

    with kept() as wanted, pytest.raises(LabLostError):
        lease.use(wanted, work, lambda state: None, print)
    assert len(tried) == 1
