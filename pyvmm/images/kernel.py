"""A minimal guest kernel: Debian's kernel source built with our configuration on top of tinyconfig.

That is ``minimal.config`` and the architecture's ``minimal-ARCHITECTURE.config``. Everything a guest of
pyvmm uses is built in, so that no module has to be loaded. A build takes some minutes, and about 2 GB in
the cache while it runs; the result is kept under a name made of the source's version and the
configuration's hash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from pyvmm.arch import native
from pyvmm.errors import StartError
from pyvmm.host.report import progress
from pyvmm.images import cache, debian

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOURCE_PACKAGE = "linux-source"


@dataclass(frozen=True, slots=True)
class KernelTarget:
    """What is built for one architecture, *arch* to the kernel's makefiles.

    *image*: the path of the bootable image in the source; *prefix*: the cross compiler's; *others*: further
    files to keep.
    """

    arch: str
    image: str
    prefix: str
    others: tuple[str, ...] = ()


#: By Debian's name of the architecture.
TARGETS = {
    "amd64": KernelTarget("x86_64", "arch/x86/boot/bzImage", "x86_64-linux-gnu-", ("vmlinux",)),
    "arm64": KernelTarget("arm64", "arch/arm64/boot/Image", "aarch64-linux-gnu-"),
}

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


def minimal_kernel(architecture: str = native.DEBIAN, say: Callable[[str], None] | None = None) -> Path:
    """The image: ``bzImage`` or ``Image``, from the cache or built now.

    Beside it lie ``config`` and, on amd64, ``vmlinux``. Raises KernelBuildError, PackageError or CacheError.
    """
    # The package is the same for every architecture.
    source = debian.package(SOURCE_PACKAGE, "amd64", say)
    key = hashlib.sha256(fragment(architecture).encode()).hexdigest()[:16]
    build = partial(_build, source, architecture, say or progress)
    place = cache.entry(f"kernel/{architecture}-{source.version}-{key}", build)
    return place / PurePath(TARGETS[architecture].image).name


def fragment(architecture: str) -> str:
    """The configuration beyond tinyconfig."""
    names = ("minimal.config", f"minimal-{architecture}.config")
    return "".join(Path(__file__).with_name(name).read_text() for name in names)


def _build(source: debian.Package, architecture: str, say: Callable[[str], None], place: Path) -> None:
    check_tools(architecture)
    target, wanted = TARGETS[architecture], fragment(architecture)
    [tarball] = (source.root / "usr/src").glob("linux-source-*.tar.*")
    tree = place.with_name("source")
    tree.mkdir()
    log = place.with_name("log")
    say(f"unpacking the kernel source {source.version}")
    _run(log, "tar", "--extract", "--strip-components=1", "--file", str(tarball), "--directory", str(tree))
    make = ("make", "-C", str(tree), f"ARCH={target.arch}", f"CROSS_COMPILE={_prefix(architecture)}")
    _run(log, *make, "tinyconfig")
    with (tree / ".config").open("a") as config:
        config.write(wanted)
    _run(log, *make, "olddefconfig")
    dropped = missing_options(wanted, (tree / ".config").read_text())
    if dropped:
        raise KernelBuildError(
            f"the kernel source {source.version} does not take {', '.join(dropped)} of our "
            "configuration; see what these options depend on"
        )
    say(f"building the minimal guest kernel for {architecture}; this takes some minutes, once")
    _run(log, *make, f"-j{len(os.sched_getaffinity(0))}", PurePath(target.image).name)
    place.mkdir()
    for path in (target.image, *target.others):
        shutil.copy(tree / path, place)
    shutil.copy(tree / ".config", place / "config")


def _prefix(architecture: str) -> str:
    return "" if architecture == native.DEBIAN else TARGETS[architecture].prefix


def missing_options(wanted: str, config: str) -> list[str]:
    """The lines of *wanted* that the final *config* does not have."""
    settled = set(config.splitlines())
    options = [line for line in wanted.splitlines() if line.startswith("CONFIG_")]
    return [line for line in options if line not in settled and not _is_off(line, settled)]


def _is_off(line: str, settled: set[str]) -> bool:
    name, _, value = line.partition("=")
    return value == "n" and not any(other.startswith(f"{name}=") for other in settled)


def check_tools(architecture: str) -> None:
    """Raise KernelBuildError with the Debian packages that are missing."""
    import subprocess

    tools = dict(_TOOLS)
    if prefix := _prefix(architecture):
        tools[f"{prefix}gcc"] = f"gcc-{prefix[:-1].replace('_', '-')}"
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
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
            f"was built; the log says: {failing_line(log.read_text(errors='replace').splitlines())}"
        )


def failing_line(lines: Sequence[str]) -> str:
    """The line of a build log that says what went wrong: the first error, else the last line."""
    errors = [line for line in lines if "error:" in line.lower() or "Error" in line]
    return (errors or list(lines) or ["nothing"])[0 if errors else -1].strip()
