"""What every benchmark needs: the environment it ran in, interleaved pairs, rows of a table."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = Path(__file__).resolve().parent
FIRMWARE = ROOT / "firmware" / "x86_64" / "bin"
#: Fewer pairs than this are a try, not a result.
PAIRS = 7


class SkippedError(Exception):
    """A benchmark or a peer that cannot run here, and why."""


@dataclass
class Row:
    """One measure: ours, the peer's, their ratio, and what it must not exceed.

    *spread* is the smallest and the largest ratio of one pair.
    """

    measure: str
    unit: str
    ours: float
    peer_name: str = ""
    peer: float | None = None
    target: float | None = None
    spread: tuple[float, float] | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def verdict(self) -> str:
        value = self.ratio if self.peer is not None else self.ours
        if self.target is None or value is None:
            return ""
        return "met" if value <= self.target else "MISSED"

    def record(self) -> dict[str, object]:
        return asdict(self) | {"ratio": self.ratio, "verdict": self.verdict}


def pairs_row(
    measure: str, unit: str, ours: list[float], peer_name: str, peer: list[float], target: float | None = None
) -> Row:
    """The row of two series measured in turn: medians, and the range of the ratios of the pairs."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True) if b]
    spread = (min(ratios), max(ratios)) if ratios else None
    samples = {"pyvmm": ours, peer_name: peer}
    return Row(
        measure,
        unit,
        statistics.median(ours),
        peer_name,
        statistics.median(peer),
        target,
        spread,
        samples,
    )


def interleave(
    runs: Mapping[str, Callable[[], float]], rounds: int, progress: Callable[[str], None]
) -> dict[str, list[float]]:
    """Each of *runs* once a round, the order turned by one each time: a drift hits all alike."""
    names = list(runs)
    results: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            progress(f"round {index + 1} of {rounds}: {name}")
            results[name].append(runs[name]())
    return results


def environment(options: argparse.Namespace) -> dict[str, object]:
    """Where the figures come from."""
    kvm = sorted(path.name for path in Path("/sys/module").glob("kvm_*"))
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "kvm": ", ".join(kvm) or ("there" if Path("/dev/kvm").exists() else "none"),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "qemu": _first_line([options.qemu, "--version"]),
        "commit": _first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
        "pairs": options.pairs,
    }


def program(path: str, package: str) -> str:
    """The absolute path of a peer. Raises SkippedError."""
    found = shutil.which(path)
    if found is None:
        raise SkippedError(f"there is no {path}; install {package} or give its path")
    return os.path.abspath(found)


def progress(text: str) -> None:
    """What is being done, on a terminal's last line; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().split("\n"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return done.stdout.split("\n")[0].strip()
