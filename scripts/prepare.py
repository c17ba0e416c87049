"""Fetches and builds what tests boot, each thing by its name: ``prepare.py guests-arm64``.

scripts/test.py runs these beside the tests that need none of it. Everything is kept in the cache, so the
second time takes no time and no network.
"""

from __future__ import annotations

import compileall
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pyvmm import lab
from pyvmm.boot.x86.detect import unpacked
from pyvmm.errors import PyvmmError
from pyvmm.images import debian
from pyvmm.images.default import default_guest
from pyvmm.images.kernel import SOURCE_PACKAGE, minimal_kernel
from pyvmm.lab import image
from pyvmm.lab.architecture import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[1]


def guests_amd64() -> None:
    """The stock guest and the emulated host."""
    _unpack(default_guest("amd64").kernel)
    _emulated_host("x86_64")


def guests_arm64() -> None:
    """The stock guest, U-Boot, and the emulated host with its programs."""
    default_guest("arm64")
    debian.package("u-boot-qemu", "arm64")
    _emulated_host("arm64")


def kernel_amd64() -> None:
    _unpack(minimal_kernel("amd64"))


def _unpack(kernel: str | Path) -> None:
    """Put the kernel in a bzImage into the cache: each emulated host would unpack it again, and slowly."""
    unpacked(Path(kernel).read_bytes())


def _emulated_host(arch: str) -> None:
    if lab.available(arch)[0]:
        image.prepare(ARCHITECTURES[arch])


def bytecode() -> None:
    """This tree's and its tests': an emulated host that has to compile them takes twice as long to begin."""
    compileall.compile_dir(ROOT / "pyvmm", quiet=1)
    pytest = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests"]
    subprocess.run(pytest, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)  # errors are the tests' to tell


PREPARATIONS: dict[str, Callable[[], object]] = {
    "bytecode": bytecode,
    "guests-amd64": guests_amd64,
    "guests-arm64": guests_arm64,
    "kernel-source": lambda: debian.package(SOURCE_PACKAGE),
    "kernel-amd64": kernel_amd64,
    "kernel-arm64": lambda: minimal_kernel("arm64"),
}


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="prepare: %(message)s")
    try:
        PREPARATIONS[sys.argv[1]]()
    except PyvmmError as error:
        print(f"prepare {sys.argv[1]}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
