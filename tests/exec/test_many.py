"""Many commands at once over one link, with the guest's own server."""

from __future__ import annotations

import os
import subprocess

import pytest

from pyvmm.exec import frames
from pyvmm.exec.request import Request
from tests.support.exec_link import Link


@pytest.mark.parametrize("count", [8, 200])
def test_commands_at_once_keep_their_streams_and_statuses_apart(link, count):
    started = [
        link.start(Request.shell(f"read line; echo $line; echo err{n} >&2; exit {n % 200}"), b"to %d\n" % n)
        for n in range(count)
    ]
    link.until(lambda: all(command.run.ended for command in started))
    assert [command.result for command in started] == [
        (n % 200, b"to %d\n" % n, b"err%d\n" % n) for n in range(count)
    ]


def test_eight_streams_both_ways_arrive_whole(link):
    data = [os.urandom(300_000 + n) for n in range(8)]
    started = [link.start(Request(["cat"]), piece) for piece in data]
    link.until(lambda: all(command.run.ended for command in started))
    assert [command.stdout for command in started] == data


def test_pipes_and_terminals_run_side_by_side(link):
    pipe = link.start(Request(["cat"]))
    terminal = link.start(Request(["cat"], pty=(24, 80)))
    link.until(lambda: terminal.run.room and pipe.run.room)
    terminal.run.write(b"typed\r")
    pipe.run.write(b"piped\n")
    link.until(lambda: terminal.stdout.count(b"typed") == 2 and pipe.stdout == b"piped\n")
    terminal.run.write(b"\x03")
    pipe.run.signal(15)
    assert link.finish(terminal)[0] == 128 + 2
    assert link.finish(pipe)[0] == 128 + 15


def test_command_whose_output_nobody_takes_holds_up_no_other(link):
    stuck = [link.start(Request(["yes"], window=1000), consume=False) for _ in range(20)]
    link.until(lambda: all(len(command.stdout) == 1000 for command in stuck))
    data = os.urandom(200_000)
    assert link.run(Request(["cat"]), data) == (0, data, b"")
    for command in stuck:  # what is in its pipe comes before its end
        command.run.signal(9)
        command.consume = True
        command.run.consumed(len(command.stdout))
    link.until(lambda: all(command.run.ended for command in stuck))


def test_command_that_does_not_read_holds_up_no_other(link):
    deaf = [link.start(Request.shell("read line; sleep 1000"), bytes(1_000_000)) for _ in range(5)]
    link.until(lambda: all(len(command.rest) < 1_000_000 - 100_000 for command in deaf))
    data = os.urandom(200_000)
    assert link.run(Request(["cat"]), data) == (0, data, b"")
    for command in deaf:
        command.run.signal(9)
        assert link.finish(command)[0] == 128 + 9


def test_outputs_without_end_share_the_link(link):
    endless = [link.start(Request.shell(f"yes {n}")) for n in range(8)]
    link.until(lambda: all(command.stdout for command in endless))
    before = [len(command.stdout) for command in endless]
    link.until(lambda: sum(len(command.stdout) for command in endless) > sum(before) + 5_000_000)
    shares = sorted(len(command.stdout) - had for command, had in zip(endless, before, strict=True))
    assert shares[0] > shares[-1] / 3, shares
    assert link.run(Request(["echo", "through"]))[1] == b"through\n"
    for command in endless:
        command.run.signal(13)
    link.until(lambda: all(command.run.ended for command in endless))


def test_command_ends_though_a_daemon_of_it_goes_on_writing(link, tmp_path):
    daemon = f"(echo $BASHPID >{tmp_path}/pid; exec yes) & until [ -s {tmp_path}/pid ]; do :; done; exit 7"
    command = link.start(Request(["/bin/bash", "-c", daemon]))
    try:
        assert link.finish(command)[0] == 7
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_new_host_ends_all_commands_of_the_one_before(channel):
    fd, process, _ = channel
    first = Link(fd)
    left = [first.start(Request.shell("echo on; exec sleep 1000")) for _ in range(30)]
    first.until(lambda: all(command.stdout == b"on\n" for command in left))
    second = Link(fd)
    assert second.run(Request(["echo", "mine"])) == (0, b"mine\n", b"")
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        assert children.read().split() == []


def test_memory_and_descriptors_of_commands_are_given_back(channel):
    fd, process, _ = channel
    link = Link(fd)

    def held():
        with open(f"/proc/{process.pid}/statm") as sizes:
            return int(sizes.read().split()[0]), len(os.listdir(f"/proc/{process.pid}/fd"))

    link.run(Request(["true"]))
    before = held()
    started = [link.start(Request(["cat"])) for _ in range(100)]
    link.until(lambda: all(command.run.room for command in started))
    link.run(Request(["true"]))
    assert held()[0] > before[0]
    for command in started:
        command.run.eof()
    link.until(lambda: all(command.run.ended for command in started))
    link.run(Request(["true"]))
    assert held() == before


def test_ping_is_answered_while_commands_are_stuck(link):
    stuck = link.start(Request(["yes"], window=100), consume=False)
    link.until(lambda: len(stuck.stdout) == 100)
    answers = []
    link.client.ping(lambda: answers.append(1))
    link.until(lambda: answers)


def test_greeting_after_a_frame_that_was_cut_off_is_found(channel, server_program):
    # The server died in the middle of a frame: what the next one says first is taken for the rest of it.
    fd, process, path = channel
    link = Link(fd)
    cat = link.start(Request(["cat"]))
    link.until_ready()
    process.kill()
    process.wait()
    link.client.receive(frames.encode(frames.GUEST_STDOUT, 1, bytes(16384))[:50])
    with subprocess.Popen([server_program, path], stdin=subprocess.DEVNULL) as again:
        try:
            link.until(lambda: cat.run.ended)
            assert link.run(Request(["echo", "again"])) == (0, b"again\n", b"")
        finally:
            again.kill()
