"""The root directory that QEMU gets, looked at by a shell in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from pyvmm.lab import enclosure

LIMIT = 60
TREE = enclosure.EXPORT


@pytest.fixture
def directory():
    """A machine's directory; skips where namespaces are not allowed."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        look(path, "true")
        if reason := enclosure.refused(path):
            pytest.skip(f"no root of its own for QEMU here: {reason}")
        yield path


def look(directory, script, exposed=(), fallback=("/bin/false",)):
    command = enclosure.enclosed(["/bin/sh", "-c", script], fallback, directory, exposed)
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.fixture
def home(monkeypatch, tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id").write_text("secret")
    (tmp_path / ".cache" / "pyvmm").mkdir(parents=True)
    (tmp_path / ".cache" / "pyvmm" / "kernel").write_text("kernel")
    (tmp_path / ".cache" / "other").touch()
    (tmp_path / ".netrc").write_text("secret")
    (tmp_path / "plain").write_text("plain")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_tree_has_no_secret_of_the_home_and_what_is_exposed(directory, home):
    script = f"cd {TREE}{home} && find . -type f | sort && cat plain .netrc .cache/pyvmm/kernel"
    done = look(directory, script, [f"{home}/.cache/pyvmm"])

    assert done.stdout == "./.cache/pyvmm/kernel\n./.netrc\n./plain\nplainkernel"


def test_tree_has_no_state_of_the_kernel_and_of_sessions(directory):
    done = look(directory, f"cd {TREE} && find dev proc run sys")

    assert done.stdout.split() == ["dev", "proc", "run", "sys"]


def test_tree_when_files_are_made_later_has_them(directory, home):
    os.mkfifo(home / "meanwhile")
    command = enclosure.enclosed(
        ["/bin/sh", "-c", f"read line <{home}/meanwhile; cat {TREE}{home}/later"],
        ["/bin/false"],
        directory,
        [],
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        with open(home / "meanwhile", "w") as fifo:
            (home / "later").write_text("now")
            fifo.write("\n")
        assert reader.communicate(timeout=LIMIT)[0] == "now"


def test_root_has_this_machines_directories_and_its_own_process_alone(directory, home):
    done = look(directory, f"cat {home}/plain; cd /proc; echo *; cat /proc/self/comm; cat {home}/.ssh/id")

    assert done.stdout == "plainself\nsh\n"
    assert "secret" not in done.stdout


def test_sockets_are_in_the_machines_directory(directory):
    (directory / "c0").write_text("socket")

    assert look(directory, f"cat {enclosure.SOCKETS}/c0").stdout == "socket"


def test_root_cannot_be_left_or_written(directory):
    done = look(directory, "cd ../../..; ls -d .pyvmm-lab; touch /made; mkdir /proc/made")

    assert done.stdout == ".pyvmm-lab\n"
    assert done.returncode != 0


def test_process_has_no_capabilities_but_those_for_files(directory):
    done = look(directory, "cat /proc/self/status")
    fields = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)

    assert int(fields["CapEff"], 16) & ~0x1F == 0
    assert int(fields["CapBnd"], 16) & ~0x1F == 0
    assert fields["NoNewPrivs"] == "1"


def test_process_when_who_started_it_is_killed_ends(directory, tmp_path):
    command = enclosure.enclosed(["/bin/sh", "-c", "echo up; exec sleep 1000"], ["/bin/false"], directory, [])
    parent = subprocess.Popen(
        ["/bin/sh", "-c", '"$@" & wait', "sh", *command], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "up\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait(LIMIT)

    with parent.stdout as left:
        assert left.read() == ""  # until the last one that had the pipe has ended


def test_command_when_there_can_be_no_root_runs_with_the_whole_tree_and_says_why(tmp_path):
    (tmp_path / "root").touch()  # no directory can be made there
    done = look(tmp_path, "true", fallback=["/bin/sh", "-c", "ls /proc/1/comm"])

    assert done.stdout.splitlines()[-1] == "/proc/1/comm"
    assert "File exists" in enclosure.refused(tmp_path)
