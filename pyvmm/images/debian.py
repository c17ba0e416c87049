"""Debian packages without root: fetched and verified by apt, unpacked into the cache.

The system's package lists are used when they have the package and the mirror still offers it;
otherwise separate lists are fetched into the cache. apt checks the signatures of the lists and,
through them, the checksum of every package. The system itself is not changed.

A package that was fetched before is found in the cache without apt and without a network. To
have a newer version, remove its link, ``debian/ARCHITECTURE/NAME``, from the cache.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from pyvmm.errors import StartError
from pyvmm.host.report import progress
from pyvmm.images import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

#: Debian's names of the architectures, by the name the kernel gives the machine.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_SYSTEM_LISTS = Path("/var/lib/apt/lists")


class PackageError(StartError):
    """A package cannot be fetched: no apt, no network, no such package."""


class NoPackageError(PackageError):
    """There is no apt here, or its sources do not have the package: they are not Debian's."""


class Package:
    """An unpacked package: its real *name*, *version*, *architecture*, and *root*, its files."""

    __slots__ = ("architecture", "name", "root", "version")

    def __init__(self, name: str, version: str, architecture: str, root: Path) -> None:
        self.name = name
        self.version = version
        self.architecture = architecture
        self.root = root


def package(name: str, architecture: str = "amd64", say: Callable[[str], None] | None = None) -> Package:
    """The package *name*, from the cache or fetched; *say* is called with a text before each slow step.

    Without *say* the texts go to the log. For a meta package (linux-image-cloud-amd64) it is the versioned
    package that it depends on.
    Raises PackageError, which is a NoPackageError where there is no apt or it does not have the package, or
    CacheError when the cache cannot be written.
    """
    if architecture not in ARCHITECTURES.values():
        known = ", ".join(ARCHITECTURES.values())
        raise PackageError(
            f"there are no guests for architecture {architecture!r}; it must be one of {known}"
        )
    if not (name[:1].isalnum() and name.isascii() and re.fullmatch(r"[\w.+-]+", name)):
        raise PackageError(f"{name!r} cannot be the name of a Debian package")
    link = cache.entry(
        f"debian/{architecture}/{name}",
        lambda place: place.symlink_to(_fetch(name, architecture, say or progress)),
    )
    root = link.resolve()
    real, _, version = root.name.partition("_")
    return Package(real, version.replace("%3a", ":"), architecture, root)


def closure(name: str, architecture: str = "amd64", say: Callable[[str], None] | None = None) -> list[str]:
    """The names of all packages that apt would install for *name* on an empty system, *name* included.

    Runs apt every time. Raises PackageError, NoPackageError where there is no apt.
    """
    _need_apt(name)
    system = _System(architecture, own=True)
    if not system.updated:
        (say or progress)(f"fetching Debian's package lists for {architecture}")
        system.update()
    return system.needed(name)


def fetched() -> list[str]:
    """``ARCHITECTURE/NAME`` of the packages in the cache, as they were asked for, sorted."""
    links = (cache.directory() / "debian").glob("*/*")
    return sorted(f"{link.parent.name}/{link.name}" for link in links if link.is_symlink())


def _fetch(name: str, architecture: str, say: Callable[[str], None]) -> str:
    """Fetch and unpack; the name of the entry beside the link."""
    _need_apt(name)
    error = None
    native = _System.architecture() == architecture
    for system in (_System(architecture, own=False), _System(architecture, own=True))[0 if native else 1 :]:
        try:
            if system.own and not system.updated:
                say(f"fetching Debian's package lists for {architecture}")
                system.update()
            real, version = system.resolve(name)
            say(f"fetching {real} {version} ({architecture})")
            key = f"{real}_{version.replace(':', '%3a')}"
            cache.entry(f"debian/{architecture}/{key}", partial(system.unpack, real, version))
            return key
        except PackageError as problem:
            error = problem
    assert error is not None
    raise error


def _need_apt(name: str) -> None:
    import shutil

    if shutil.which("apt-get") is None:
        raise NoPackageError(
            f"cannot fetch {name}: the package is Debian's and there is no apt-get here; "
            "run this on Debian, or give a kernel of your own"
        )


#: State directories whose lists this process has fetched.
_updated: set[Path] = set()


class _System:
    """apt with a state directory in the cache, reading the system's package lists or its own."""

    def __init__(self, architecture: str, *, own: bool) -> None:
        self.own = own
        self._architecture = architecture
        self._state = cache.directory() / "apt" / f"{architecture}{'' if own else '-system'}"

    @staticmethod
    def architecture() -> str:
        return ARCHITECTURES.get(os.uname().machine, "")

    @property
    def updated(self) -> bool:
        """Whether this process has fetched the lists already."""
        return self._state in _updated

    def update(self) -> None:
        cache.make(self._state)
        with cache.locked(self._state / "update"):  # apt would refuse rather than wait for another
            self._run("apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any")
        _updated.add(self._state)

    def resolve(self, name: str) -> tuple[str, str]:
        """The versioned package behind *name* and its version."""
        for _ in range(4):
            fields = self._show(name)
            wanted = [word.split()[0] for word in fields.get("Depends", "").split(",") if word.strip()]
            family = "-".join(name.split("-")[:2]) + "-"
            versioned = [w for w in wanted if w.startswith(family) and w[len(family) :][:1].isdigit()]
            if not family.startswith("linux-") or not versioned:
                return name, fields["Version"]
            name = versioned[0]
        raise PackageError(f"the package {name} depends on itself")

    def needed(self, name: str) -> list[str]:
        """What apt would install for *name*: the state's list of installed packages is empty."""
        options = ("--simulate", "--no-install-recommends")
        text = self._run("apt-get", "install", *options, name)
        return [line.split()[1].partition(":")[0] for line in text.splitlines() if line.startswith("Inst ")]

    def unpack(self, name: str, version: str, place: Path) -> None:
        """Download one package and unpack its files into the new directory *place*."""
        downloads = place.with_name("download")
        downloads.mkdir()
        self._run("apt-get", "download", "-qq", f"{name}={version}", folder=downloads)
        [deb] = downloads.iterdir()
        place.mkdir()
        _unpack(deb, place)

    def _show(self, name: str) -> dict[str, str]:
        try:
            text = self._run("apt-cache", "show", "--no-all-versions", name)
        except PackageError as error:
            if "No packages found" not in str(error):
                raise
            raise NoPackageError(
                f"apt's sources have no package {name} for {self._architecture}; check the name, and that "
                "the sources in /etc/apt are Debian's"
            ) from None
        pairs = (line.split(": ", 1) for line in text.splitlines() if ": " in line and line[0] != " ")
        return {pair[0]: pair[1] for pair in pairs}

    def _run(self, *command: str, folder: Path | None = None) -> str:
        import subprocess

        done = subprocess.run(
            [command[0], "-c", str(self._configuration()), *command[1:]],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
        lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        reason = lines[0][3:] if lines else done.stderr.strip().replace("\n", " ") or "no reason given"
        raise PackageError(
            f"{' '.join(command[:2])} for {self._architecture} packages failed: {reason.rstrip('. ')}; "
            "see that the network and apt's sources are right, and try again"
        )

    def _configuration(self) -> Path:
        state = self._state
        lists = state / "lists" if self.own else _SYSTEM_LISTS
        for folder in ("lists/partial", "cache/archives/partial"):
            cache.make(state / folder)
        status = state / "status"
        status.touch()
        path = state / "apt.conf"
        text = f"""\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{self._architecture}";
APT::Architectures {{ "{self._architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Dir::State "{state}";
Dir::State::Lists "{lists}";
Dir::State::Status "{status}";
Dir::Cache "{state / "cache"}";
"""
        temporary = path.with_name(f"apt.conf.{os.getpid()}")
        temporary.write_text(text)
        temporary.rename(path)
        return path


def _unpack(deb: Path, place: Path) -> None:
    import shutil

    from debian.debfile import DebFile

    with deb.open("rb") as file, DebFile(fileobj=file).data.tgz() as archive:
        for member in archive:
            path = _inside(place, member.name, deb)
            if path == place:
                continue  # "./", the root itself
            if not member.isdir():
                path.unlink(missing_ok=True)  # of that name may be a link, which would be written through
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.issym():
                path.symlink_to(member.linkname)
            elif member.islnk():
                os.link(_inside(place, member.linkname, deb), path, follow_symlinks=False)
            elif member.isfile():
                source: IO[bytes] | None = archive.extractfile(member)
                assert source is not None
                with path.open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                path.chmod(member.mode & 0o755 | 0o600)


def _inside(place: Path, name: str, deb: Path) -> Path:
    """The path of *name* below *place*. Raises PackageError when it, or a link on its way, leads outside."""
    path = Path(os.path.normpath(place / name))
    if path != place and not (
        path.is_relative_to(place) and path.parent.resolve().is_relative_to(place.resolve())
    ):
        raise PackageError(f"{deb.name} has a file outside its root: {name}")
    return path
