"""Runs the checks and all tests, here and in the lab, and ends with one count and every skip's reason.

What is to be done is a list of tasks. Some prepare what others need: guests' packages are fetched in the
background, and the two minimal kernels are built beside the tests that boot none. Of the tasks whose needs
are met, the longest begins first, two at a time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyvmm import lab
from pyvmm.arch.x86_64.host import SVM, VMX, virtualization

BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest"]
NO_CACHE = ["-p", "no:cacheprovider"]
#: Every test's outcome by name, for scripts/support.py.
TELL_ALL = ["-rap"]
#: What to make faster first.
SLOWEST = ["--durations=8"]
LAB = [sys.executable, "-m", "pyvmm", "lab"]
#: No test of the lab needs it.
NO_HYPOTHESIS = ["-p", "no:hypothesispytest"]
#: What a piece may take on a busy machine; a host that hangs is given up within a minute by itself.
LAB_LIMIT = "20m"
#: Tasks at a time; one, here or on an emulated host, has about one CPU's worth to do.
AT_ONCE = min(2, len(os.sched_getaffinity(0)))
#: Hosts a piece gets when they are lost. A piece whose tests fail, or take longer than LAB_LIMIT, has failed.
LAB_TRIES = 3
#: Exit code of `pyvmm lab` for a host that ended or no longer answers; pytest has none of this number.
LAB_LOST = 64

CHECKS = (
    [str(BIN / "ruff"), "check", "."],
    [str(BIN / "ruff"), "format", "--check", "."],
    [str(BIN / "mypy")],
    [str(BIN / "lint-imports")],
)
#: By the name of what scripts/prepare.py makes: what it needs before, and seconds. One of 0 seconds waits for
#: the network and takes no task's place. A build uses all CPUs; two at once would leave the tests none.
PREPARATIONS: dict[str, tuple[tuple[str, ...], int]] = {
    "bytecode": ((), 40),
    "guests-amd64": ((), 0),
    "guests-arm64": ((), 0),
    "kernel-source": ((), 0),
    "kernel-amd64": (("kernel-source",), 1200),
    "kernel-arm64": (("kernel-source", "kernel-amd64"), 1100),
}
T = "tests/integration/"


@dataclass(frozen=True)
class Piece:
    """A part of the tests that runs on an emulated host of its own.

    *seconds*: of one CPU, by which the longest go first; *kernel*: it boots the minimal kernel.
    """

    host: str
    seconds: int
    words: Sequence[str]
    kernel: bool = False


def files(*names: str) -> list[str]:
    return [f"{T}test_{name}.py" for name in names]


X86_64, ARM64, N1, GICV2 = "x86_64", "arm64", "arm64-n1", "arm64-gicv2"
#: Boot guests of their own for what `Guest` and the command line do about their endings, the same on every
#: architecture; how a guest ends on arm64 is tested in tests/integration/arm64.
ENDINGS = (
    "not reboot_builds and not panic_ends and not poweroff_ends and not power_button_and_kill "
    "and not its_own_init and not of_pyvmm_run and not in_a_guest_that_ends"
)
#: Leaves out what has nothing to do with the interrupt controller.
GIC = (
    "arm64 and not (16550 or ram_base or exec_when or panic or input_that or power_button) "
    "or virtio_block or vhost_net_that"
)
#: On the lab's AMD-V runs what needs it, and the firmware suite a second time; the first piece is all that no
#: other names. What is the same on every arm64 host runs on the one that takes less time.
PIECES = (
    Piece(X86_64, 430, ["-m", "hw or kvm", T, "tests/memory"]),
    Piece(
        X86_64,
        180,
        files("minimal_kernel", "own_kernels", "virtio_examples", "virtio_vsock", "virtio_tools"),
        kernel=True,
    ),
    Piece(
        X86_64, 310, files("virtio_block", "virtio_balloon", "virtio_block_kill", "virtio_console", "exec")
    ),
    Piece(X86_64, 230, files("linux", "guest")),
    Piece(
        X86_64,
        290,
        files("virtio_net", "virtio_vhost", "virtio_vhost_save", "guest_files", "guest_from_outside"),
    ),
    Piece(X86_64, 390, ["-m", "hw", "tests/docs"]),
    Piece(ARM64, 410, [f"{T}arm64"], kernel=True),
    Piece(ARM64, 280, files("own_kernels", "virtio_tools", "virtio_examples", "sandbox"), kernel=True),
    Piece(N1, 160, files("virtio_block", "virtio_balloon", "virtio_vsock")),
    Piece(N1, 170, files("virtio_block_kill", "virtio_vhost", "virtio_vhost_save")),
    Piece(ARM64, 300, files("virtio_net")),
    Piece(ARM64, 330, files("virtio_console", "exec")),
    Piece(N1, 130, [*files("guest", "guest_files", "guest_from_outside"), "-k", ENDINGS]),
    Piece(
        GICV2,
        190,
        [
            *(f"{T}arm64/test_{name}.py" for name in ("firmware", "linux", "virtio")),
            *files("virtio_block", "virtio_vhost"),
            "-k",
            GIC,
        ],
    ),
)
#: The tests that run on this machine.
LOCAL_SECONDS = 620


@dataclass
class Task:
    """One command, and what came of it.

    *seconds*: what it is thought to take; *needs*: names of preparations that must have ended; *tests*: its
    output ends with pytest's count; *in_lab*: an emulated host runs it, which may be lost.
    """

    name: str
    command: list[str]
    seconds: int = 0
    needs: frozenset[str] = frozenset()
    tests: bool = True
    in_lab: bool = False
    code: int = -1
    took: float = 0.0
    output: list[str] = field(default_factory=list)
    #: Emulated hosts that were lost while it ran.
    lost: int = 0

    def run(self) -> None:
        """Run it; on another host when the emulated one was lost."""
        begin = time.monotonic()
        for _ in range(LAB_TRIES):
            self.code, self.output = step(self.command)
            if not self.in_lab or self.code != LAB_LOST:
                break
            self.lost += 1
        self.took = time.monotonic() - begin


class Schedule:
    """Runs tasks as their needs are met: the longest first, preparations before tests."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = sorted(tasks, key=lambda task: (task.tests, -task.seconds))
        self._ended: set[str] = set()
        self._changed = threading.Condition()

    def run(self) -> None:
        """Until all have ended."""
        background = [task for task in self._waiting if not task.seconds]
        threads = [threading.Thread(target=self._carry_out, args=(task,)) for task in background]
        self._waiting = [task for task in self._waiting if task.seconds]
        threads += [threading.Thread(target=self._work) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            self._carry_out(task)

    def _next(self) -> Task | None:
        """The next task that can begin, waited for; None when none is left."""
        with self._changed:
            while self._waiting:
                for task in self._waiting:
                    if task.needs <= self._ended:
                        self._waiting.remove(task)
                        return task
                self._changed.wait()
        return None

    def _carry_out(self, task: Task) -> None:
        try:
            task.run()
        finally:
            with self._changed:
                self._ended.add(task.name)
                self._changed.notify_all()


def cpu_seconds() -> tuple[float, float]:
    """What the CPUs of this machine have had since it was started, and how much of it they were idle."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    return sum(ticks) / per_second, (ticks[3] + ticks[4]) / per_second


def main() -> int:
    begin, (there_before, idle_before) = time.monotonic(), cpu_seconds()
    tests = suites()
    tasks = [*checks(), *preparations(tests), *tests]
    Schedule(tasks).run()
    failures = [task.name for task in tasks if task.code and task.name not in PREPARATIONS]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    skips: list[str] = []
    for task in tasks:
        if not task.tests:
            continue
        for outcome, count in tally(task.output).items():
            counts[outcome] += count
        skips += [f"{task.name}: {line}" for line in task.output if line.startswith("SKIPPED")]
    print("\n== seconds")
    for task in sorted(tasks, key=lambda task: -task.took):
        print(f"{task.took:4.0f} {task.name}")
    there, idle = cpu_seconds()
    share = (idle - idle_before) / max(there - there_before, 1)
    print(f"{time.monotonic() - begin:4.0f} in all, the CPUs idle for {share:.0%} of it")
    lost = [task for task in tasks if task.lost]
    print("\n== emulated hosts that were lost" if lost else "\n== no emulated host was lost")
    for task in lost:
        print(f"{task.lost} {task.name}")
    print("\n== skipped" if skips else "\n== nothing was skipped")
    for line in skips:
        print(line)
    for name in failures:
        print(f"== FAILED: {name}")
    counts["failed"] += max(0, len(failures) - counts["failed"])
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return 1 if failures else 0


def checks() -> list[Task]:
    return [Task(" ".join([Path(check[0]).name, *check[1:]]), check, 30, tests=False) for check in CHECKS]


def preparations(tests: Sequence[Task]) -> list[Task]:
    """What *tests* need, and what that needs. Where it cannot be had, the tests say so."""
    wanted = {name for task in tests for name in task.needs} | {"guests-amd64"}
    tasks = []
    for name, (needs, seconds) in reversed(PREPARATIONS.items()):
        if name in wanted:
            wanted |= {*needs}
            command = [sys.executable, "scripts/prepare.py", name]
            tasks.append(Task(name, command, seconds, frozenset(needs), tests=False))
    return tasks


def suites() -> list[Task]:
    """What runs on this machine, and what runs where ring 0 runs in hardware."""
    own = virtualization() in (VMX, SVM)
    if own:
        tasks = [local("here", [*TELL_ALL, "-m", "not arm64"], "guests-amd64", "kernel-amd64")]
    else:
        tasks = [local("here", ["-m", "not hw and not arm64"])]
    for arch, marker in (() if own else ((X86_64, "hw"),)) + ((ARM64, "arm64"),):
        able, reason = lab.available(arch)
        if able:
            tasks += [on_host(piece) for piece in PIECES if piece.host.startswith(arch)]
        else:
            print(f"== no {arch} lab: {reason}", flush=True)
            tasks.append(local(f"{marker}, without a lab", ["-m", marker]))
    return tasks


def local(name: str, words: Iterable[str], *needs: str) -> Task:
    return Task(name, [*PYTEST, *SLOWEST, *words], LOCAL_SECONDS, frozenset(needs))


def on_host(piece: Piece) -> Task:
    """*piece* on an emulated host of its own."""
    architecture = "arm64" if piece.host.startswith(ARM64) else "amd64"
    kinds = ("guests", "kernel") if piece.kernel else ("guests",)
    words = [*piece.words]
    if piece is PIECES[0]:
        others = [other.words for other in PIECES[1:] if other.host == piece.host]
        named = {word for other in others for word in other if word.startswith(T)}
        words += [f"--ignore={path}" for path in sorted(named)]
    pytest = [*PYTEST, *NO_CACHE, *NO_HYPOTHESIS, *TELL_ALL, *SLOWEST, *words]
    return Task(
        f"{piece.host}: {' '.join(piece.words)}",
        [*LAB, piece.host, "--fresh", "--timeout", LAB_LIMIT, "--", *pytest],
        piece.seconds,
        frozenset({"bytecode", *(f"{kind}-{architecture}" for kind in kinds)}),
        in_lab=True,
    )


#: One command's output at a time.
_printing = threading.Lock()


def step(command: list[str]) -> tuple[int, list[str]]:
    """Run *command*; the exit code, and the output's lines, which are shown at its end."""
    begin = time.monotonic()
    words = " ".join(Path(word).name if word.startswith("/") else word for word in command)
    with _printing:
        print(f".. {words}", flush=True)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", check=False
    )
    with _printing:
        print(f"\n== {words}", flush=True)
        print(done.stdout, end="", flush=True)
        print(f"== {time.monotonic() - begin:.0f} s, exit code {done.returncode}", flush=True)
    return done.returncode, done.stdout.splitlines()


def tally(output: list[str]) -> dict[str, int]:
    """The counts of pytest's last line; errors are failures."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for line in reversed(output):
        found = re.findall(r"(\d+) (passed|failed|skipped|error)", line)
        if found:
            for number, outcome in found:
                counts["failed" if outcome == "error" else outcome] += int(number)
            break
    return counts


if __name__ == "__main__":
    sys.exit(main())
