"""Runs the checks and all tests, here and in the lab, and ends with one count and every skip's reason."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from pyvmm import lab
from pyvmm.arch.x86_64.host import SVM, VMX, virtualization
from pyvmm.errors import PyvmmError
from pyvmm.guests import debian
from pyvmm.guests.default import default_guest
from pyvmm.guests.kernel import minimal_kernel

BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest"]
NO_CACHE = ["-p", "no:cacheprovider"]
#: Every test's outcome by name, for scripts/support.py.
TELL_ALL = ["-rap"]
LAB = [sys.executable, "-m", "pyvmm", "lab", "x86_64"]
CHECKS = (
    [str(BIN / "ruff"), "check", "."],
    [str(BIN / "ruff"), "format", "--check", "."],
    [str(BIN / "mypy")],
    [str(BIN / "lint-imports")],
)
LINUX = "tests/guest/test_linux.py"
#: Files that boot a kernel of their own, or many guests: a piece each.
OF_THEIR_OWN = sorted(
    ["tests/guest/test_minimal_kernel.py", *map(str, Path("tests/guest").glob("test_virtio_*.py"))]
)
#: What runs on the lab's AMD-V: what needs it, and the firmware suite a second time. In pieces,
#: since an emulated host hangs now and then and the piece is then run again on another.
IN_LAB = (
    [
        *("-m", "hw or kvm", "tests/guest", "tests/memory"),
        *(f"--ignore={path}" for path in (LINUX, *OF_THEIR_OWN)),
    ],
    [LINUX, "-k", "not exec and not memory"],
    [LINUX, "-k", "exec or memory"],
    *([path] for path in OF_THEIR_OWN),
)
#: What runs on the lab's arm64 host. hypothesis has a compiled part, which is this machine's alone.
NO_HYPOTHESIS = ["-p", "no:hypothesispytest"]
IN_ARM64_LAB = (
    ("arm64", ["tests/guest/arm64"]),
    ("arm64", ["tests/guest/test_virtio_block.py", "tests/guest/test_virtio_balloon.py"]),
    # passt and virtiofsd are not among that host's programs; there is no minimal kernel for it.
    ("arm64", ["tests/guest/test_virtio_net.py", "-k", "not TestUser"]),
    ("arm64", ["tests/guest/test_virtio_console.py"]),
    ("arm64", ["tests/guest/test_virtio_vsock.py"]),
    ("arm64", ["tests/guest/test_virtio_vhost.py", "-k", "vhost_net"]),
    (
        "arm64",
        ["tests/guest/test_virtio_tools.py", "tests/guest/test_virtio_examples.py", "-k", "not TestBuses"],
    ),
    ("arm64-gicv2", ["tests/guest/arm64/test_firmware.py", "tests/guest/arm64/test_linux.py"]),
)
LAB_LIMIT = "6m"
LAB_TRIES = 3
#: Exit codes of `pyvmm lab` for a host that ended or hung, not of the tests on it.
LAB_LOST = (64, 124)


def main() -> int:
    failures = [" ".join(check[:2]) for check in CHECKS if step(check)[0]]
    for prepare in (
        default_guest,
        lambda: debian.package("linux-image-amd64"),
        minimal_kernel,
        lambda: default_guest("arm64"),
        lambda: debian.package("u-boot-qemu", "arm64"),
    ):
        try:
            prepare()
        except PyvmmError as error:
            print(f"== no guest packages: {error}", flush=True)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    skips: list[str] = []
    for name, command in suites():
        code, output = step(command)
        for _ in range(LAB_TRIES - 1):
            if name == "here" or code not in LAB_LOST:
                break
            print("== the emulated host was lost; once more on another", flush=True)
            step([*LAB, "--stop"])
            code, output = step(command)
        if code:
            failures.append(name)
        for outcome, count in tally(output).items():
            counts[outcome] += count
        skips += [f"{name}: {line}" for line in output if line.startswith("SKIPPED")]
    print("\n== skipped" if skips else "\n== nothing was skipped")
    for line in skips:
        print(line)
    for name in failures:
        print(f"== FAILED: {name}")
    counts["failed"] += max(0, len(failures) - counts["failed"])
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return 1 if failures else 0


def suites() -> list[tuple[str, list[str]]]:
    """A name and a command each: on this machine, then where ring 0 runs in hardware."""
    if virtualization() in (VMX, SVM):
        return [("here", [*PYTEST, *TELL_ALL, "-m", "not arm64"]), *arm64_suites()]
    here = ("here", [*PYTEST, "-m", "not hw and not arm64"])
    able, reason = lab.available()
    if not able:
        print(f"== no lab: {reason}", flush=True)
        return [here, ("ring 0", [*PYTEST, "-m", "hw"]), *arm64_suites()]
    return [
        here,
        *(
            ("in the lab", [*LAB, "--timeout", LAB_LIMIT, "--", *PYTEST, *NO_CACHE, *TELL_ALL, *piece])
            for piece in IN_LAB
        ),
        *arm64_suites(),
    ]


def arm64_suites() -> list[tuple[str, list[str]]]:
    """What runs on an arm64 host."""
    able, reason = lab.available("arm64")
    if not able:
        print(f"== no arm64 lab: {reason}", flush=True)
        return [("arm64", [*PYTEST, "-m", "arm64"])]
    options = [*NO_CACHE, *NO_HYPOTHESIS, *TELL_ALL]
    return [
        (
            f"in the {name} lab",
            [*LAB[:-1], name, "--timeout", LAB_LIMIT, "--", *PYTEST, *options, *piece],
        )
        for name, piece in IN_ARM64_LAB
    ]


def step(command: list[str]) -> tuple[int, list[str]]:
    """Run *command*, its output shown as it comes; the exit code and the output's lines."""
    words = [Path(word).name if word.startswith("/") else word for word in command]
    print(f"\n== {' '.join(words)}", flush=True)
    begin = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
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
