"""``pyvmm run --sandbox``: the VM process confined, with a guest that does what guests do."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.host.sandbox import KILL, NOBODY
from tests.support import programs
from tests.support.command import (
    BIN,
    EXIT,
    LIMIT,
    MODULE,
    PASSED,
    SPIN,
    complains,
    environment,
    pyvmm,
    read_until,
    until,
)
from tests.support.firmware_guest import PARAMETERS
from tests.support.runtime import runtime

__all__ = ["runtime"]

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(180), pytest.mark.usefixtures("runtime")]

STRICT = ("--sandbox", "strict", "--console", "none")
#: Where the first virtio device of a machine is.
FIRST_DEVICE = 0xD000_0000
DEVICES = (
    "--rng",
    "--disk=disk,create=1M",
    "--net=switch:confined",
    "--hvc=pty",
    "--hvc=socket:hvc",
    "--vsock=3,path=vsock",
    "--balloon",
)

Run = Callable[..., subprocess.Popen[bytes]]


def killing() -> dict[str, str]:
    """An environment in which a system call that the filter does not allow kills the VM process."""
    return {**environment(), KILL: "1"}


@contextmanager
def started(folder: Path, *arguments: str, **keys: object) -> Iterator[subprocess.Popen[bytes]]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keys}
    with subprocess.Popen([*MODULE, "run", *arguments], env=killing(), cwd=folder, **streams) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def vm_process(process: subprocess.Popen[bytes]) -> Path:
    """The VM process in /proc, once all that it has is confined."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def confined() -> bool:
        return any("Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text() for pid in found())

    def found() -> list[str]:
        return children.read_text().split()

    until(confined)
    (pid,) = [pid for pid in found() if "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()]
    return Path(f"/proc/{pid}")


def test_vm_process_is_seen_confined_from_outside(tmp_path: Path) -> None:
    with started(tmp_path, "--firmware", SPIN, *STRICT, *DEVICES) as process:
        there = vm_process(process)
        for task in there.glob("task/*/status"):
            status = dict(line.split(":\t", 1) for line in task.read_text().splitlines() if ":\t" in line)
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
            assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
                0
            }
        if os.geteuid() == 0:
            assert os.listdir(there / "root") == []
            assert os.stat(there).st_uid in (0, NOBODY)  # root's where a process is not dumpable
            opened = {os.readlink(entry.path) for entry in os.scandir(there / "fd")}
            named = {path for path in opened if path.startswith("/") and "/dev/" not in path}
            bundle = {path for path in named if re.fullmatch(r".*/start-\w+\.bundle", path)}
            assert {Path(path).name for path in named - bundle} <= {"disk", "switches"}
        process.terminate()
        assert process.wait(LIMIT) == 3


def file_limit(process: subprocess.Popen[bytes]) -> set[str]:
    """The soft and the hard limit of the size of files that its VM process writes, in bytes."""
    (line,) = [
        line
        for line in (vm_process(process) / "limits").read_text().splitlines()
        if line.startswith("Max file size")
    ]
    return set(line.split()[3:5])


@pytest.mark.parametrize(
    ("arguments", "largest"),
    [
        ([], 0),
        (["--disk=disk,create=1M", "--hvc=pty"], 1 << 20),
        (["--disk=disk,create=1M", "--hvc=append:log"], 256 << 20),
        (["--disk=disk,create=300M", "--trace-device=rng=trace", "--rng"], 300 << 20),
        (["--net=switch:limited,pcap=capture,pcap-limit=400M"], 400 << 20),
        (["--on-reboot=restart"], 64 << 20),
    ],
)
def test_no_file_grows_beyond_the_largest_of_the_guests(
    tmp_path: Path, arguments: list[str], largest: int
) -> None:
    with started(tmp_path, "--firmware", SPIN, *STRICT, *arguments) as process:
        assert file_limit(process) == {str(largest)}


def test_guests_output_in_a_file_of_the_users_has_no_limit_and_messages_have_room(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        with started(tmp_path, "--firmware", SPIN, "--sandbox", "strict", stdout=out) as process:
            assert file_limit(process) == {"unlimited"}
        out.truncate(1 << 30)
        with started(tmp_path, "--firmware", SPIN, *STRICT, stderr=out) as process:
            assert file_limit(process) == {str((1 << 30) + (64 << 20))}


@pytest.mark.parametrize("device", DEVICES)
def test_machine_with_each_device_begins_and_ends_where_all_else_kills(tmp_path: Path, device: str) -> None:
    done = pyvmm("run", "--firmware", EXIT, *STRICT, device, cwd=tmp_path, env=killing())

    assert done.returncode == PASSED, done
    assert b"internal" not in done.stderr and b"failed" not in done.stderr, done


def rng_driver(folder: Path) -> str:
    """A guest that asks the first virtio device for entropy 500 times."""
    program = bytearray((BIN / "virtio_rng.bin").read_bytes())
    struct.pack_into("<3Q", program, PARAMETERS, FIRST_DEVICE, 500, 0)
    (folder / "rng.bin").write_bytes(program)
    return str(folder / "rng.bin")


def test_guest_uses_a_device_at_full_speed_where_all_else_kills(tmp_path: Path) -> None:
    done = pyvmm("run", "--firmware", rng_driver(tmp_path), "--rng", "--sandbox", "strict", env=killing())

    assert (done.returncode, done.stderr) == (PASSED, b"")
    assert done.stdout.endswith(b"ok virtio_rng\n")


@pytest.mark.parametrize("program", ["triple_fault.bin", "no_emulation.bin", "poweroff_acpi.bin", "halt.bin"])
def test_ending_is_told_as_without_the_sandbox(tmp_path: Path, program: str) -> None:
    told = []
    for mode in ("off", "strict"):
        result = tmp_path / mode
        pyvmm(
            *("run", "--firmware", str(BIN / program), "--console", "none", "--sandbox", mode),
            *("--result", str(result)),
        )
        record = json.loads(result.read_text())
        told.append([record[key] for key in ("code", "reason", "known")])
    assert told[0] == told[1]


def test_guest_that_reboots_goes_on_with_what_the_parent_has_open(tmp_path: Path) -> None:
    program = programs.rom(tmp_path, programs.outb(0x3F8, *b"boot\n") + programs.outb(0x64, 0xFE))
    with started(
        tmp_path,
        *("--firmware", program, "--sandbox", "strict", "--on-reboot", "restart"),
        *("--console", "stdio", *DEVICES),
    ) as process:
        read_until(process.stdout, b"boot\n" * 4)
        process.terminate()
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 3, said
    assert os.listdir(tmp_path).count("hvc") == 0  # the sockets are removed


def test_other_processes_reach_the_guest(tmp_path: Path) -> None:
    with started(tmp_path, "--firmware", SPIN, *STRICT, "--name", "confined"):
        until(lambda: json.loads(pyvmm("ps", "--json").stdout))
        (guest,) = json.loads(pyvmm("ps", "--json").stdout)
        assert (guest["name"], guest["state"]) == ("confined", "running")
        assert pyvmm("stop", "confined", "--timeout", "0").returncode == 3


def test_two_confined_guests_are_joined_by_a_link(tmp_path: Path) -> None:
    cable = str(tmp_path / "cable")
    arguments = "--firmware", SPIN, *STRICT, f"--net=link:{cable}"

    def joined() -> bool:
        lines = Path("/proc/net/unix").read_text().splitlines()
        return any(line.endswith(f" {cable}") and line.split()[5] == "03" for line in lines)  # SS_CONNECTED

    with started(tmp_path, *arguments) as one, started(tmp_path, *arguments) as other:
        until(joined)
        for process in (other, one):
            process.terminate()
            assert process.wait(LIMIT) == 3, process.communicate()


def test_vm_process_ends_with_its_parent(tmp_path: Path) -> None:
    with started(tmp_path, "--firmware", SPIN, *STRICT) as process:
        there = vm_process(process)
        process.kill()
        until(lambda: not there.exists() or "State:\tZ" in (there / "status").read_text())


def test_device_of_the_users_own_has_what_it_declares(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "own.py").write_text(
        f"""
import pyvmm
class Own(pyvmm.VirtioDevice):
    device_id = 42
    paths = [{str(tmp_path / "seen")!r}]
    def attached(self):
        self.runtime.loop.call_later(0.2, self.look)
    def look(self):
        open({str(tmp_path / "seen" / "file")!r}, "w").write("here")
        try:
            open({str(tmp_path / "own.py")!r})
        except OSError as error:
            open({str(tmp_path / "seen" / "errno")!r}, "w").write(str(error.errno))
"""
    )
    (tmp_path / "seen").chmod(0o777)
    with started(tmp_path, "--firmware", SPIN, *STRICT, "--device", f"{tmp_path}/own.py:Own"):
        until((tmp_path / "seen" / "errno").exists)
        until(lambda: (tmp_path / "seen" / "errno").read_text() in ("2", "13"))
    assert (tmp_path / "seen" / "file").read_text() == "here"


def test_device_that_opens_what_it_has_not_declared_is_told_how_to(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        """
import pyvmm
class Own(pyvmm.VirtioDevice):
    device_id = 4
    queue_sizes = (64,)
    def handle(self, queue, chain):
        open("/etc/passwd")
"""
    )
    device = f"{tmp_path}/own.py:Own"
    done = pyvmm("run", "--firmware", rng_driver(tmp_path), "--sandbox", "on", "--device", device)

    complains(done, 6, "own.py line 7", "name the files that it uses in its paths")


def test_mode_is_one_of_three() -> None:
    complains(pyvmm("run", "--firmware", EXIT, "--sandbox", "maybe"), 65, "--sandbox=maybe is not offered")
