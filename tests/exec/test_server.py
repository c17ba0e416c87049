"""Both halves of the exec protocol against each other: the guest's own C code, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from pyvmm.exec import frames
from pyvmm.exec.request import Request
from tests.support.exec_link import Link


def test_command_when_it_ends_gives_output_error_and_status_apart(link):
    assert link.run(Request.shell("echo out; echo err >&2; exit 3")) == (3, b"out\n", b"err\n")


def test_command_when_killed_gives_128_and_the_signal(link):
    assert link.run(Request.shell("kill -9 $$"))[0] == 137


def test_commands_when_run_in_sequence_do_not_mix(link):
    for number in range(20):
        assert link.run(Request(["echo", str(number)])) == (0, b"%d\n" % number, b"")


def test_command_when_unknown_gives_127_and_says_so(link):
    status, _, error = link.run(Request(["no-such-program"]))
    assert status == 127
    assert b"no-such-program" in error


@pytest.mark.parametrize("argument", ["/etc/passwd", "/"])
def test_command_when_no_program_gives_126(link, argument):
    assert link.run(Request([argument]))[0] == 126


def test_command_when_its_directory_is_missing_gives_126(link):
    status, _, error = link.run(Request(["true"], cwd="/no/such/place"))
    assert (status, b"/no/such/place" in error) == (126, True)


def test_request_when_it_has_environment_and_directory_applies_them(link):
    request = Request(
        ["/bin/sh", "-c", 'echo "$ONE $HOME"; pwd'], env={"ONE": "1 2", "HOME": "/h"}, cwd="/usr"
    )
    assert link.run(request)[1] == b"1 2 /h\n/usr\n"


def test_program_when_path_is_in_the_request_is_looked_up_there(link, tmp_path):
    program = tmp_path / "hello"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert link.run(Request(["hello"], env={"PATH": f"/nowhere:{tmp_path}"})) == (0, b"found\n", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_request_when_it_has_a_root_is_run_inside(link, tmp_path):
    (tmp_path / "inside").mkdir()
    status, _, error = link.run(Request(["/bin/sh"], root=str(tmp_path), cwd="/inside"))
    assert (status, b"/bin/sh" in error) == (127, True)


def test_request_when_longer_than_the_window_arrives_in_parts(link):
    text = "x" * 60000
    assert link.run(Request(["/bin/sh", "-c", 'echo "${#1}"', "sh", text])) == (0, b"60000\n", b"")


def test_megabytes_when_sent_through_cat_come_back_intact(link):
    data = os.urandom(2_000_000)
    status, output, error = link.run(Request(["cat"]), stdin=data)
    assert (status, error) == (0, b"")
    assert output == data


def test_input_when_the_command_does_not_read_it_is_dropped(link):
    assert link.run(Request(["true"]), stdin=b"x" * 100_000)[0] == 0
    assert link.run(Request(["cat"]), stdin=b"after") == (0, b"after", b"")


def test_input_when_the_command_closed_it_does_not_stop_the_command(link):
    request = Request.shell("exec <&-; while ! [ -e /proc/self/fd/9 ]; do exec 9>&1; done; echo end")
    assert link.run(request, stdin=b"x" * 100_000)[:2] == (0, b"end\n")


def test_output_when_a_background_process_keeps_the_pipe_ends_with_the_command(link):
    status, output, _ = link.run(Request.shell("sleep 1000 & echo $!"))
    os.kill(int(output), signal.SIGKILL)
    assert status == 0


def test_output_when_nobody_consumes_it_stops_at_the_window(link):
    stuck = link.start(
        Request.shell("trap 'echo caught >&2' TERM; while :; do echo y; done", window=10_000), consume=False
    )
    link.until(lambda: len(stuck.stdout) == 10_000)
    stuck.run.signal(signal.SIGTERM)  # control passes stuck output, and so does its effect
    stuck.consume = True
    stuck.run.consumed(len(stuck.stdout))
    link.until(lambda: stuck.stderr == b"caught\n")
    stuck.run.signal(signal.SIGKILL)
    assert link.finish(stuck)[0] == 128 + signal.SIGKILL
    assert stuck.run.signal_number == signal.SIGKILL


def test_signal_when_sent_reaches_the_whole_group(link):
    group = link.start(Request.shell("trap 'exit 9' TERM; sh -c 'echo $$; exec sleep 1000' & wait; wait"))
    link.until(lambda: group.stdout.endswith(b"\n"))
    group.run.signal(signal.SIGTERM)
    assert link.finish(group)[0] == 9
    _until_gone(int(group.stdout))


def test_pty_when_asked_for_is_the_controlling_terminal_of_the_size_given(link):
    status, output, _ = link.run(Request.shell("stty size </dev/tty; test -t 2", pty=(33, 77)))
    assert (status, output) == (0, b"33 77\r\n")


def test_pty_when_resized_tells_the_command(link):
    sized = link.start(
        Request.shell("trap 'stty size; exit' WINCH; echo on; while :; do sleep 0.01; done", pty=(1, 2))
    )
    link.until(lambda: b"on" in sized.stdout)
    sized.run.resize(40, 50)
    assert b"40 50" in link.finish(sized)[1]


def test_pty_when_ctrl_c_is_typed_interrupts(link):
    sleeping = link.start(Request.shell("echo on; exec sleep 1000", pty=(24, 80)))
    link.until(lambda: b"on" in sleeping.stdout)
    sleeping.run.write(b"\x03")
    assert link.finish(sleeping)[0] == 130


def test_pty_when_much_is_printed_before_the_end_loses_nothing(link):
    status, output, _ = link.run(Request.shell("seq 20000", pty=(24, 80)))
    assert status == 0
    assert output.split() == [b"%d" % number for number in range(1, 20001)]


def test_noise_when_before_and_between_frames_is_survived(channel):
    fd, _, _ = channel
    link = Link(fd)
    os.write(fd, b"login: \xf6\x9d\xf6root\n\xf6\x9d\x03\x01\xff\xff")
    link.until_ready()
    os.write(fd, b"\xf6\x9d" * 10 + b"noise")
    assert link.run(Request(["echo", "through"])) == (0, b"through\n", b"")


def test_new_host_when_a_command_runs_ends_it_and_its_children(channel):
    fd, _, _ = channel
    first = Link(fd)
    left = first.start(Request.shell("sleep 1000 & echo $! $$; wait"))
    first.until(lambda: left.stdout.endswith(b"\n"))
    pids = [int(word) for word in left.stdout.split()]
    second = Link(fd)
    assert second.run(Request(["echo", "mine"])) == (0, b"mine\n", b"")
    for pid in pids:
        _until_gone(pid)


def _until_gone(pid):
    """Wait until the process is dead; on a zombie this machine's PID 1 has yet to act."""
    deadline = time.monotonic() + 10
    state = "R"
    while state != "Z":
        assert time.monotonic() < deadline, f"process {pid} still runs"
        try:
            with open(f"/proc/{pid}/stat") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return


def test_request_for_a_number_in_use_is_ignored(channel):
    fd, _, _ = channel
    link = Link(fd)
    cat = link.start(Request(["cat"]))
    link.until_ready()
    link.unsent += frames.encode(frames.HOST_RUN, cat.run.number, Request(["true"]).body)
    assert link.run(Request(["echo", "beside"])) == (0, b"beside\n", b"")
    cat.rest, cat.open = memoryview(b"still there"), False
    cat.feed(cat.run)
    assert link.finish(cat) == (0, b"still there", b"")


@pytest.mark.parametrize(
    "body",
    [b"", b"\0" * 9, b"\0" * 10, b"\0" * 10 + b"zword\0", b"\0" * 10 + b"a", b"\0" * 10 + b"e" + b"A=1\0"],
)
def test_request_when_malformed_is_refused_with_125(link, body):
    request = Request(["true"])
    request.body = body or b"\0"
    status, _, error = link.run(request)
    assert (status, error.startswith(b"pyvmm-init: the request")) == (125, True)


def test_server_when_killed_and_started_again_tells_the_host(channel, server_program):
    fd, process, path = channel
    link = Link(fd)
    cat = link.start(Request(["cat"]))
    link.until_ready()
    process.kill()
    process.wait()
    again = subprocess.Popen([server_program, path], stdin=subprocess.DEVNULL)
    try:
        link.until(lambda: cat.run.ended)
        assert (cat.run.status, "began anew" in str(cat.run.error)) == (None, True)
        link.until(lambda: link.greeted == 2)
        assert link.run(Request(["echo", "again"])) == (0, b"again\n", b"")
    finally:
        again.kill()
        again.wait()


def test_many_short_commands_leave_no_process_and_no_descriptor(channel):
    fd, process, _ = channel
    link = Link(fd)
    link.run(Request(["true"]))
    before = len(os.listdir(f"/proc/{process.pid}/fd"))
    for _ in range(50):
        link.run(Request(["true"]))
        link.run(Request(["true"], pty=(1, 1)))
    deadline = time.monotonic() + 5
    while _children(process.pid):
        assert time.monotonic() < deadline
    assert len(os.listdir(f"/proc/{process.pid}/fd")) == before


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return children.read().split()
