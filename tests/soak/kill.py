"""``pyvmm run`` is killed at moments of chance: the parent, the VM process, both, or a helper program.

Afterwards no process of it is left, no network interface, mount or temporary file; and the same command
works at once, whatever sockets and locks the killed one has left, and leaves nothing but what it was to make.

The rounds run in a process of their own, which becomes the parent of all that their commands leave, in a
network namespace of its own where it may make one.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pyvmm.backends.net.base import NetBackend, NetBackendError
from pyvmm.backends.net.tap import open_tap
from pyvmm.host.libc import function
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.fs.virtiofsd import find_program
from tests.soak import child
from tests.support.command import LAUNCHER, LIMIT, MODULE, PASSED, environment
from tests.support.descendants import adopt, below, command, left
from tests.support.firmware_guest import BIN

#: Seconds that processes get to end once the one they belong to was killed; a VM takes some 30 ms.
GONE = 20.0
#: Helper programs, by what a process's command line begins with.
HELPERS = ("qemu-nbd", "passt", "virtiofsd")
#: What a command says that starts as it should.
ANNOUNCEMENTS = ("the console is pty", "virtio console port")
#: Rounds between two starts of a guest without a name, which looks for sockets of guests that are gone.
_SWEEP = 25
#: Files that are there for a moment, by another name each time, so that a kill in that moment leaves them:
#: qemu-nbd's throw-away disk before it is unlinked, a socket's folder before it is connected, a record
#: before it is renamed.
_MOMENTARY = ("tmp/vl.", "tmp/pyvmm-", "work/result.")
_CLONE_NEWNET = 0x40000000
KILLED, STOPPED, START_FAILED, DEVICE_FAILED, FATAL = -signal.SIGKILL, 3, 64, 6, 96


def run(seconds: float, seed: int) -> str:
    """Kill commands for *seconds*."""
    return rounds(seconds, child.ENDLESS, seed)


def rounds(seconds: float, most: int, seed: int) -> str:
    """At most *most* rounds within *seconds*. Raises AssertionError for what one of them finds."""
    return child.run(__name__, seconds, most, seed)


class Place:
    """The folders of a campaign: all that its commands may write to is below *top*."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.work = top / "work"
        self.shared = top / "shared"
        for name in ("work", "shared", "run", "tmp", "cache"):
            (top / name).mkdir(mode=0o700)
        top.chmod(0o755)
        if os.geteuid() == 0:
            self.shared.chmod(0o755)
            os.chown(self.shared, 65534, 65534)  # what root shares is another user's
        (self.work / "raw.img").write_bytes(bytes(1 << 20))
        qcow2 = ["qemu-img", "create", "-q", "-f", "qcow2", str(self.work / "disk.qcow2"), "1M"]
        self.qcow2 = _works(qcow2)
        self.virtiofsd = _has_virtiofsd()
        self.network = _own_network()
        self.environment = {
            **environment(),
            "XDG_RUNTIME_DIR": str(top / "run"),
            "TMPDIR": str(top / "tmp"),
            "PYVMM_CACHE": str(top / "cache"),
        }

    def choose(self, rng: random.Random) -> tuple[list[str], set[str]]:
        """Options of a guest, and the files that they make."""
        words: list[str] = []
        made: set[str] = set()

        def choose(*choices: str) -> None:
            word, _, file = rng.choice(choices).partition(" > ")
            words.extend(word.split())
            if file:
                made.add(file)

        choose("--console none", "--console pty", "--console file:console.log > console.log")
        choose("", "--disk raw.img", "--disk raw.img,snapshot", "--disk raw.img --trace-device disk0=t > t")
        if self.qcow2:
            choose("", "", "--disk disk.qcow2", "--disk disk.qcow2,snapshot")
        choose("", "--hvc pty", "--hvc socket:hvc", "--hvc file:hvc.log > hvc.log")
        choose("", "--net switch:a --net switch:a", "--net link:link", "--rng --balloon")
        if self.network is not None:
            choose("", "", "--net user", "--net tap")
        if self.virtiofsd:
            choose("", "", "", f"--share {self.shared}")
        choose("", "--vsock 7,path=vsock")
        choose("", "--name soak")
        choose("", "--result result > result")
        choose("", "", "", "--on-reboot restart")
        return words, made

    def start(self, program: str, words: list[str]) -> subprocess.Popen[bytes]:
        """Start ``pyvmm run`` of *program*, the leader of a process group of its own."""
        way = LAUNCHER if os.access(LAUNCHER[0], os.X_OK) else MODULE
        return subprocess.Popen(
            [*way, "run", "--firmware", str(BIN / program), "--memory", "32M", *words],
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def files(self) -> set[str]:
        """What is in the folders, but for what is in a shared one and in the cache."""
        found = (path.relative_to(self.top) for path in self.top.rglob("*"))
        return {str(path) for path in found if path.parts[0] != "cache"}


def _works(words: list[str]) -> bool:
    try:
        return subprocess.run(words, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _has_virtiofsd() -> bool:
    try:
        find_program()
    except DeviceError:
        return False
    return True


def _own_network() -> NetBackend | None:
    """The way out of a network namespace of this process's own, while it is kept; None where it gets none."""
    if function("unshare")(_CLONE_NEWNET):
        return None
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        try:
            way = open_tap("out", address="198.51.100.2/24")
        except NetBackendError:
            return None
        ip.route("add", dst="default", gateway="198.51.100.1")
    return way


def interfaces() -> list[str]:
    """The network interfaces of this process's namespace."""
    return sorted(name for _, name in socket.if_nameindex())


def mounts() -> list[str]:
    """The mounts of this process's namespace: where each is, and of what."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(" ".join(line.split()[3:5]) for line in lines)


class Campaign:
    """The rounds at *place*, and what was killed in them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.victims = dict.fromkeys(("parent", "VM process", "group", "helper"), 0)
        self._usual = {"work", "work/raw.img", "shared", "run", "tmp"}
        self._usual |= {"run/pyvmm", "run/pyvmm/lock", "run/pyvmm/switches"}  # locks
        if place.qcow2:
            self._usual.add("work/disk.qcow2")
        self._mounts = mounts()
        #: Files of _MOMENTARY that were left, and removed here.
        self.momentary = 0
        #: Seconds that a start takes here.
        self._usually = statistics.median(self._timed() for _ in range(3))

    def _timed(self) -> float:
        begin = time.monotonic()
        self.works(["--console", "none", "--name", "soak"], set())
        return time.monotonic() - begin

    def round(self, seed: int) -> None:
        """Kill one command; what remains of it does no harm. Raises AssertionError."""
        rng = random.Random(seed)
        words, made = self.place.choose(rng)
        program = rng.choice(["spin.bin", "spin.bin", "exit.bin"])
        helped = any(word.startswith(("disk.qcow2", "user", str(self.place.shared))) for word in words)
        victim = rng.choice(list(self.victims)[: None if helped else -1])
        # A guest without a chosen name gets one, and a socket, a quarter of a second after its start.
        moment = rng.uniform(0, 2 * self._usually + rng.choice((0, 0.3)))
        told = f"seed {seed}, {program} {' '.join(words)}, {victim} after {moment * 1000:.0f} ms"
        try:
            self._killed(program, words, victim, moment)
            self.works(words, made)
        except AssertionError as error:
            raise AssertionError(f"{told}: {error}") from error
        finally:
            for file in made:
                with suppress(FileNotFoundError):
                    (self.place.work / file).unlink()

    def _killed(self, program: str, words: list[str], victim: str, moment: float) -> None:
        process = self.place.start(program, words)
        end = time.monotonic() + moment
        while process.poll() is None and time.monotonic() < end:
            select.select([], [], [], max(0.0, min(0.005, end - time.monotonic())))
        killed = self._kill(process, victim)
        # A parent that has just ended, and is not waited for yet, is not killed any more.
        ended = {PASSED} if program == "exit.bin" else set()
        allowed = {
            "": {PASSED, KILLED, STOPPED},
            "parent": {KILLED} | ended,
            "group": {KILLED} | ended,
            "VM process": {FATAL, PASSED},
            "helper": {DEVICE_FAILED, START_FAILED, STOPPED, PASSED},
        }[killed]
        if killed == "helper" and program == "spin.bin":
            # A guest whose device is gone may go on.
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            process.terminate()
        try:
            _, said = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            below_it = [command(pid) for pid in below(process.pid)]
            process.kill()
            raise AssertionError(f"it does not end; below it are {below_it}") from None
        if killed == "VM process" and any(name.encode() in said for name in HELPERS):
            allowed = {START_FAILED}  # it was about to execute a helper
        assert process.returncode in allowed, f"{killed or 'none'} killed: {process.returncode}, {said!r}"
        # Of a helper that is gone the guest is told, and then how it ended.
        self._told(said, 2 if killed == "helper" else int(process.returncode != PASSED))
        processes = left(GONE)
        assert processes == [], f"left are the processes {processes}"
        assert self.place.network is None or interfaces() == ["lo", "out"], interfaces()
        assert mounts() == self._mounts, set(mounts()) ^ set(self._mounts)

    def _kill(self, process: subprocess.Popen[bytes], victim: str) -> str:
        """Kill *victim* of *process*, once there is one; who was killed, empty when it has ended."""
        limit = time.monotonic() + 2
        while process.poll() is None:
            if victim in ("parent", "group"):
                if victim == "group":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
                self.victims[victim] += 1
                return victim
            for pid in below(process.pid):
                is_helper = os.path.basename(command(pid).split(" ")[0]).startswith(HELPERS)
                if is_helper is (victim == "helper") and self._is(pid, process, victim):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.victims[victim] += 1
                        return victim
            if time.monotonic() > limit:  # it has no helper
                victim = "VM process"
            select.select([], [], [], 0.001)
        return ""

    def _is(self, pid: int, process: subprocess.Popen[bytes], victim: str) -> bool:
        return victim == "helper" or command(pid) == command(process.pid) != ""

    def works(self, words: list[str], made: set[str]) -> None:
        """``pyvmm run`` with *words* does what it should, and leaves the files *made* and no others."""
        process = self.place.start("exit.bin", words)
        try:
            _, said = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("the next one does not end") from None
        assert process.returncode == PASSED, f"the next one: {process.returncode}, {said!r}"
        self._told(said, 0)
        assert left(GONE) == []
        self._clean(made)

    def sweep(self) -> None:
        """A guest without a name of its own removes sockets of such that are gone."""
        process = self.place.start("spin.bin", ["--console", "none"])
        try:
            own = self.place.top / "run" / "pyvmm" / f"guest-{process.pid}.sock"
            end = time.monotonic() + LIMIT
            while not own.exists():
                assert process.poll() is None and time.monotonic() < end, "a guest has no socket"
                select.select([], [], [], 0.002)
            process.terminate()
            _, said = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
        assert process.returncode == STOPPED, f"a guest without a name: {process.returncode}, {said!r}"
        assert left(GONE) == []
        found = self.place.files() - self._usual
        assert not found, f"left are {sorted(found)}"

    def _remove_momentary(self) -> None:
        for path in [path for path in self.place.top.glob("*/*") if self._is_momentary(path)]:
            self.momentary += 1
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _is_momentary(self, path: Path) -> bool:
        return str(path.relative_to(self.place.top)).startswith(_MOMENTARY)

    def _clean(self, made: set[str]) -> None:
        self._remove_momentary()
        usual = self._usual | {f"work/{name}" for name in made}
        found = {name for name in self.place.files() - usual if not name.startswith("run/pyvmm/guest-")}
        assert not found, f"left are {sorted(found)}"
        missing = {f"work/{name}" for name in made} - self.place.files()
        assert not missing, f"missing are {sorted(missing)}"

    def _told(self, said: bytes, sentences: int) -> None:
        """Standard error has announcements and at most so many *sentences*."""
        lines = said.decode(errors="replace").splitlines()
        assert all(line.startswith("pyvmm: ") for line in lines), said
        others = [line for line in lines if not line[7:].startswith(ANNOUNCEMENTS)]
        assert len(others) <= sentences and "internal error" not in str(others), said


def _rounds(seconds: float, most: int, seed: int) -> str:
    adopt()
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        campaign = Campaign(Place(Path(folder)))
        end, count = time.monotonic() + seconds, 0
        try:
            while count < most and time.monotonic() < end:
                campaign.round(seed + count)
                count += 1
                if not count % _SWEEP:
                    campaign.sweep()
            campaign.sweep()
        finally:
            for pid in below(os.getpid()):
                os.kill(pid, signal.SIGKILL)
    killed = ", ".join(f"{name} {number} times" for name, number in campaign.victims.items())
    return (
        f"{count} starts, killed {killed}: nothing left but {campaign.momentary} files of a moment, "
        "and the next start works"
    )


if __name__ == "__main__":
    sys.exit(child.main(_rounds))
