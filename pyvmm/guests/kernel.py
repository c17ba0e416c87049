"""A minimal guest kernel: Debian's kernel source built with ``minimal.config`` on top of tinyconfig.

Everything a guest of pyvmm uses is built in: nothing to load, quick to boot. A build takes some
minutes and about 2 GB in the cache while it runs; the result is kept under a name made of the
source's version and the configuration's hash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

from pyvmm.errors import StartError
from pyvmm.guests import cache, debian

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOURCE_PACKAGE = "linux-source"
FRAGMENT = Path(__file__).with_name("minimal.config")

#: Programs the build runs, by the Debian package that has them.
_TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "tar": "tar",
    "xz": "xz-utils",
    "gzip": "gzip",
    "perl": "perl",
}
# The same source and configuration give the same bytes.
_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00:00",
    "KBUILD_BUILD_USER": "pyvmm",
    "KBUILD_BUILD_HOST": "pyvmm",
    "LC_ALL": "C",
}


class KernelBuildError(StartError):
    """The minimal kernel cannot be built on this machine."""


def minimal_kernel(say: Callable[[str], None] | None = None) -> Path:
    """The directory with ``bzImage``, ``vmlinux`` and ``config``, from the cache or built now.

    Raises KernelBuildError, PackageError or CacheError.
    """
    source = debian.package(SOURCE_PACKAGE, "amd64", say)
    key = hashlib.sha256(FRAGMENT.read_bytes()).hexdigest()[:16]
    return cache.entry(f"kernel/{source.version}-{key}", partial(_build, source, say or debian.tell))


def _build(source: debian.Package, say: Callable[[str], None], place: Path) -> None:
    check_tools()
    [tarball] = (source.root / "usr/src").glob("linux-source-*.tar.*")
    tree = place.with_name("source")
    tree.mkdir()
    log = place.with_name("log")
    say(f"unpacking the kernel source {source.version}")
    _run(log, "tar", "--extract", "--strip-components=1", "--file", str(tarball), "--directory", str(tree))
    make = ("make", "-C", str(tree), "ARCH=x86_64")
    _run(log, *make, "tinyconfig")
    with (tree / ".config").open("a") as config:
        config.write(FRAGMENT.read_text())
    _run(log, *make, "olddefconfig")
    dropped = missing_options(FRAGMENT.read_text(), (tree / ".config").read_text())
    if dropped:
        raise KernelBuildError(
            f"the kernel source {source.version} does not take {', '.join(dropped)} of {FRAGMENT.name}; "
            "see what these options depend on"
        )
    say("building the minimal guest kernel; this takes some minutes, once")
    _run(log, *make, f"-j{len(os.sched_getaffinity(0))}", "bzImage")
    place.mkdir()
    shutil.copy(tree / "arch/x86/boot/bzImage", place / "bzImage")
    shutil.copy(tree / "vmlinux", place / "vmlinux")
    shutil.copy(tree / ".config", place / "config")


def missing_options(fragment: str, config: str) -> list[str]:
    """The lines of *fragment* that the final *config* does not have."""
    settled = set(config.splitlines())
    wanted = [line for line in fragment.splitlines() if line.startswith("CONFIG_")]
    return [line for line in wanted if line not in settled and not _is_off(line, settled)]


def _is_off(line: str, settled: set[str]) -> bool:
    name, _, value = line.partition("=")
    return value == "n" and not any(other.startswith(f"{name}=") for other in settled)


def check_tools() -> None:
    """Raise KernelBuildError with the Debian packages that are missing."""
    import subprocess

    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if "gcc" not in missing:
        probe = ["gcc", "-E", "-include", "gelf.h", "-x", "c", "/dev/null"]
        if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            missing.append("libelf-dev")
    if missing:
        raise KernelBuildError(
            f"building a kernel needs Debian's {', '.join(missing)}; install them and try again"
        )


def _run(log: Path, *command: str) -> None:
    import subprocess

    with log.open("ab") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **_REPRODUCIBLE},
            check=False,
        )
    if done.returncode != 0:
        raise KernelBuildError(
            f"`{command[0]} {command[-1]}` failed with status {done.returncode} while the guest kernel "
            f"was built; its last words: {last_words(log.read_text(errors='replace').splitlines())}"
        )


def last_words(lines: Sequence[str]) -> str:
    """The line of a build log that says what went wrong: the first error, else the last line."""
    errors = [line for line in lines if "error:" in line.lower() or "Error" in line]
    return (errors or list(lines) or ["nothing"])[0 if errors else -1].strip()
