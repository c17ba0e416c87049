"""Runs the checks and all tests, here and in the lab, and ends with one count and every skip's reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pyvmm import lab
from pyvmm.arch.x86_64.host import SVM, VMX, virtualization
from pyvmm.errors import PyvmmError
from pyvmm.images import debian
from pyvmm.images.default import default_guest
from pyvmm.images.kernel import minimal_kernel

BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest"]
NO_CACHE = ["-p", "no:cacheprovider"]
#: Every test's outcome by name, for scripts/support.py.
TELL_ALL = ["-rap"]
LAB = [sys.executable, "-m", "pyvmm", "lab"]
CHECKS = (
    [str(BIN / "ruff"), "check", "."],
    [str(BIN / "ruff"), "format", "--check", "."],
    [str(BIN / "mypy")],
    [str(BIN / "lint-imports")],
)
LINUX = "tests/integration/test_linux.py"
#: Files that boot a kernel of their own, or many guests: a piece each.
OF_THEIR_OWN = sorted(
    [
        "tests/integration/test_minimal_kernel.py",
        *map(str, Path("tests/integration").glob("test_virtio_*.py")),
    ]
)
#: What runs on the lab's AMD-V: what needs it, and the firmware suite a second time. In pieces, each on a
#: host of its own, two at a time.
IN_LAB = (
    [
        *("-m", "hw or kvm", "tests/integration", "tests/memory"),
        *(f"--ignore={path}" for path in (LINUX, *OF_THEIR_OWN)),
    ],
    [LINUX, "-k", "not exec and not memory"],
    [LINUX, "-k", "exec or memory"],
    *([path] for path in OF_THEIR_OWN),
)
#: What runs on the lab's arm64 host. hypothesis has a compiled part, which is this machine's alone.
NO_HYPOTHESIS = ["-p", "no:hypothesispytest"]
IN_ARM64_LAB = (
    ("arm64", ["tests/integration/arm64"]),
    ("arm64", ["tests/integration/test_virtio_block.py", "tests/integration/test_virtio_balloon.py"]),
    ("arm64", ["tests/integration/test_virtio_block_kill.py"]),
    ("arm64", ["tests/integration/test_virtio_net.py"]),
    ("arm64", ["tests/integration/test_virtio_console.py"]),
    ("arm64", ["tests/integration/test_virtio_vsock.py"]),
    ("arm64", ["tests/integration/test_virtio_vhost.py", "tests/integration/test_virtio_vhost_save.py"]),
    ("arm64", ["tests/integration/test_virtio_tools.py", "tests/integration/test_virtio_examples.py"]),
    ("arm64-gicv2", [f"tests/integration/arm64/test_{name}.py" for name in ("firmware", "linux", "virtio")]),
    (
        "arm64-gicv2",
        [
            "tests/integration/test_virtio_block.py",
            "tests/integration/test_virtio_vhost.py",
            "-k",
            "block or vhost_net_that",
        ],
    ),
)
LAB_LIMIT = "10m"
#: Suites at a time; one, here or on an emulated host, has about one CPU's worth to do.
AT_ONCE = min(2, len(os.sched_getaffinity(0)))
#: Hosts a piece gets when they are lost. A piece whose tests fail, or take longer than LAB_LIMIT, has failed.
LAB_TRIES = 3
#: Exit code of `pyvmm lab` for a host that ended or no longer answers; pytest has none of this number.
LAB_LOST = 64


@dataclass
class Suite:
    """One run of pytest, on this machine or in the lab, and what came of it."""

    name: str
    command: list[str]
    in_lab: bool = True
    code: int = -1
    output: list[str] = field(default_factory=list)
    #: Emulated hosts that were lost while it ran.
    lost: int = 0

    def run(self) -> None:
        """Run it; on another host when the emulated one was lost."""
        for _ in range(LAB_TRIES):
            self.code, self.output = step(self.command, alone=False)
            if not self.in_lab or self.code != LAB_LOST:
                return
            self.lost += 1


def main() -> int:
    failures = [" ".join(check[:2]) for check in CHECKS if step(check)[0]]
    for prepare in (
        default_guest,
        lambda: debian.package("linux-image-amd64"),
        minimal_kernel,
        lambda: default_guest("arm64"),
        lambda: minimal_kernel("arm64"),
        lambda: debian.package("u-boot-qemu", "arm64"),
    ):
        try:
            prepare()
        except PyvmmError as error:
            print(f"== no guest packages: {error}", flush=True)
    here, in_lab = suites()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(Suite.run, (here, *in_lab)))
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    skips: list[str] = []
    for suite in (here, *in_lab):
        if suite.code:
            failures.append(suite.name)
        for outcome, count in tally(suite.output).items():
            counts[outcome] += count
        skips += [f"{suite.name}: {line}" for line in suite.output if line.startswith("SKIPPED")]
    lost = [suite for suite in in_lab if suite.lost]
    print("\n== emulated hosts that were lost" if lost else "\n== no emulated host was lost")
    for suite in lost:
        print(f"{suite.lost} {suite.name}: {' '.join(suite.command)}")
    print("\n== skipped" if skips else "\n== nothing was skipped")
    for line in skips:
        print(line)
    for name in failures:
        print(f"== FAILED: {name}")
    counts["failed"] += max(0, len(failures) - counts["failed"])
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return 1 if failures else 0


def suites() -> tuple[Suite, list[Suite]]:
    """What runs on this machine, and what runs where ring 0 runs in hardware."""
    if virtualization() in (VMX, SVM):
        return Suite("here", [*PYTEST, *TELL_ALL, "-m", "not arm64"], in_lab=False), arm64_suites()
    here = Suite("here", [*PYTEST, "-m", "not hw and not arm64"], in_lab=False)
    able, reason = lab.available()
    if not able:
        print(f"== no lab: {reason}", flush=True)
        return here, [Suite("ring 0", [*PYTEST, "-m", "hw"], in_lab=False), *arm64_suites()]
    # An arm64 host has two CPUs: seldom two of them at once.
    turns = zip_longest(arm64_suites(), [piece("x86_64", words) for words in IN_LAB])
    return here, [suite for pair in turns for suite in pair if suite is not None]


def arm64_suites() -> list[Suite]:
    """What runs on an arm64 host."""
    able, reason = lab.available("arm64")
    if not able:
        print(f"== no arm64 lab: {reason}", flush=True)
        return [Suite("arm64", [*PYTEST, "-m", "arm64"], in_lab=False)]
    return [piece(host, words, NO_HYPOTHESIS) for host, words in IN_ARM64_LAB]


def piece(host: str, words: Iterable[str], options: Iterable[str] = ()) -> Suite:
    """A part of the tests on an emulated *host* of its own."""
    pytest = [*PYTEST, *NO_CACHE, *options, *TELL_ALL, *words]
    return Suite(f"in the {host} lab", [*LAB, host, "--fresh", "--timeout", LAB_LIMIT, "--", *pytest])


#: One command's output at a time.
_printing = threading.Lock()


def step(command: list[str], *, alone: bool = True) -> tuple[int, list[str]]:
    """Run *command*; the exit code and the output's lines, shown as they come or, not *alone*, at its end."""
    begin = time.monotonic()
    words = " ".join(Path(word).name if word.startswith("/") else word for word in command)
    if not alone:
        with _printing:
            print(f".. {words}", flush=True)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stdout is not None
    said = process.stdout if alone else process.stdout.readlines()
    with _printing:
        print(f"\n== {words}", flush=True)
        lines = []
        for line in said:
            lines.append(line.rstrip("\n"))
            print(line, end="", flush=True)
        code = process.wait()
        print(f"== {time.monotonic() - begin:.0f} s, exit code {code}", flush=True)
    return code, lines


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
