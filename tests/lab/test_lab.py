"""``pyvmm lab`` with a real emulated host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm import lab
from pyvmm.lab import enclosure, lease, machine
from tests.lab.conftest import COMMAND, LIMIT, ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(LIMIT)]

OPEN_KVM = """
import ctypes, os
fd = os.open("/dev/kvm", os.O_RDWR)
KVM_GET_API_VERSION, KVM_CREATE_VM = 0xAE00, 0xAE01
libc = ctypes.CDLL(None)
print(libc.ioctl(fd, KVM_GET_API_VERSION, 0), libc.ioctl(fd, KVM_CREATE_VM, 0) > 0)
"""


def test_exit_status_when_command_fails_is_the_commands_own(call):
    assert call("sh", "-c", "exit 7").returncode == 7


def test_exit_status_when_command_is_killed_is_128_and_the_signal(call):
    assert call("sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_exit_status_when_there_is_no_such_program_is_127(call):
    assert call("no-such-program").returncode == 127


def test_output_when_both_streams_are_used_keeps_them_apart(call):
    done = call("sh", "-c", "echo out; echo err >&2")

    assert done.stdout == b"out\n"
    assert done.stderr.endswith(b"err\n")
    assert b"out" not in done.stderr


def test_input_when_it_is_binary_and_larger_than_any_buffer_comes_back_unchanged(call):
    data = os.urandom(1_000_003)

    assert call("cat", input=data).stdout == data


def test_command_when_nobody_reads_its_output_any_more_ends(lab_host):
    command = subprocess.Popen(
        [*COMMAND, "--", "yes"], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    command.stdout.read(100)
    command.stdout.close()

    assert command.wait(LIMIT) == 128 + signal.SIGPIPE


def test_directory_and_variables_when_command_runs_are_those_of_the_caller(call):
    done = call("sh", "-c", 'pwd; echo "$MARK $PYVMM_LAB"', env={**os.environ, "MARK": "here"})

    assert done.stdout == f"{ROOT}\nhere x86_64\n".encode()


def test_files_when_they_change_on_the_host_are_seen_by_the_next_command(call, tmp_path):
    edited = tmp_path / "edited"
    replacement = tmp_path / "replacement"
    edited.write_text("before")
    first = call("cat", str(edited)).stdout
    replacement.write_text("after")
    replacement.rename(edited)

    assert (first, call("cat", str(edited)).stdout) == (b"before", b"after")


def test_files_when_command_writes_them_stay_in_the_lab(call, tmp_path):
    done = call("sh", "-c", f"echo x >{tmp_path}/made && cat {tmp_path}/made")

    assert done.stdout == b"x\n"
    assert not list(tmp_path.iterdir())


def test_files_of_this_machines_sessions_and_hidden_files_of_homes_are_not_seen(call, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = call("sh", "-c", "ls -A /run; cat ~/.[a-z]* 2>/dev/null | wc -c")
    if reason := enclosure.refused(machine.wanted().directory):
        pytest.skip(reason)

    assert done.stdout == b"0\n"


def test_kvm_when_python_opens_it_makes_a_machine(call):
    done = call(sys.executable, "-c", OPEN_KVM)

    assert done.stdout.split() == [b"12", b"True"]


def test_tun_when_opened_is_loaded_by_itself(call):
    assert call("sh", "-c", "exec 3<>/dev/net/tun").returncode == 0


def test_tracing_when_kvm_is_loaded_counts_exits_to_user_space(call):
    assert call("test", "-e", "/sys/kernel/tracing/events/kvm/kvm_userspace_exit/id").returncode == 0


def test_commands_when_two_run_at_once_do_not_wait_for_each_other(lab_host):
    begin = [*COMMAND, "--", "sh", "-c", "echo up; read line"]
    pair = [
        subprocess.Popen(begin, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    both = [command.stdout.readline() for command in pair]
    for command in pair:
        command.communicate(b"\n", timeout=LIMIT)

    assert both == [b"up\n", b"up\n"]
    assert [command.returncode for command in pair] == [0, 0]


def test_interrupt_when_sent_reaches_the_command(lab_host):
    script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done"
    command = subprocess.Popen([*COMMAND, "--", "bash", "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    command.stdout.readline()
    command.send_signal(signal.SIGINT)
    output, _ = command.communicate(timeout=LIMIT)

    assert (output, command.returncode) == (b"caught\n", 9)


def test_interrupt_when_the_command_ignores_it_ends_it_at_the_third(lab_host):
    script = "trap '' INT; echo up; while :; do sleep 1; done"
    command = subprocess.Popen([*COMMAND, "--", "bash", "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    command.stdout.readline()
    deadline = time.monotonic() + LIMIT
    while command.poll() is None:
        assert time.monotonic() < deadline
        command.send_signal(signal.SIGINT)
        time.sleep(0.05)
    command.stdout.close()

    assert command.returncode in (130, -signal.SIGINT)


def test_command_when_it_is_slower_than_its_timeout_exits_with_124(call):
    done = call("sleep", "60", options=["--timeout", "1s"])

    assert done.returncode == 124
    assert b"did not end within 1 s" in done.stderr


def test_left_over_process_when_its_command_ended_is_killed(lab_host):
    mark = f"86{os.getpid()}"
    lab.run(["sh", "-c", f"setsid sleep {mark} >/dev/null 2>&1 &"], timeout=LIMIT)
    deadline = time.monotonic() + LIMIT

    while _sleeps(mark):
        assert time.monotonic() < deadline


def test_terminal_when_there_is_one_is_a_terminal_inside(lab_host):
    import pty

    parent, child = pty.openpty()
    command = subprocess.Popen([*COMMAND, "--", "tty"], cwd=ROOT, stdin=child, stdout=child, stderr=child)
    os.close(child)
    output = b""
    while b"/dev/pts/" not in output:
        output += os.read(parent, 4096)
    status = command.wait(LIMIT)
    os.close(parent)

    assert status == 0


def test_run_when_called_from_python_gives_what_subprocess_would(lab_host):
    done = lab.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"\0\xff", timeout=LIMIT)

    assert (done.returncode, done.stdout, done.stderr) == (3, b"\0\xff", b"err\n")


def test_run_when_the_command_takes_too_long_raises(lab_host):
    with pytest.raises(lab.LabTimeoutError):
        lab.run(["sleep", "60"], timeout=0.5)


def test_machine_when_its_processes_were_killed_is_started_anew(lab_host, tmp_path, monkeypatch):
    results = tmp_path / "results"
    results.mkdir()
    request = {"memory": 512 << 20, "cpus": 1, "writable": [str(results)]}
    monkeypatch.chdir(ROOT)
    directory = machine.wanted(memory=512 << 20, cpus=1, writable=(str(results),)).directory
    statuses = []
    try:
        for victim in ("pid", "qemu", None):
            done = lab.run(
                ["sh", "-c", f"echo {victim} >{results}/{victim}; exit 5"], timeout=LIMIT, **request
            )
            statuses.append(done.returncode)
            status = lease.ask(directory, "status")
            assert "\nSeccomp:\t2\n" in Path(f"/proc/{status['qemu']}/status").read_text()  # filtered
            if victim:
                os.kill(status[victim], signal.SIGKILL)
    finally:
        lease.ask(directory, "stop")

    assert statuses == [5, 5, 5]
    assert {path.name for path in results.iterdir()} == {"pid", "qemu", "None"}
    assert not directory.exists()


def _sleeps(mark):
    script = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    return f"sleep {mark}".encode() in lab.run(["sh", "-c", script], timeout=LIMIT).stdout
