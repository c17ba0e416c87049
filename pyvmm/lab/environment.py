"""What a command in the lab sees of this machine: shared directories, current directory, variables.

The whole file system is visible there, as it is when the command starts. *Places* are the exception,
for speed: directories with programs and packages, whose contents all commands of one machine share.
``fingerprint`` differs when one of them has changed; another machine is started then. It is made from
the modification times of the directories and of the package databases, so it notices a package that
was installed, removed or upgraded, and not a file that was edited in place.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from pathlib import Path

from pyvmm.lab import system
from pyvmm.lab.architecture import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Directories of the root that an emulated host of another architecture has its own of.
_SYSTEM = frozenset("bin boot dev etc lib lib32 lib64 libx32 lost+found proc run sbin sys usr var".split())
_PROGRAMS = ("bin", "sbin", "lib", "lib64")
_DATABASES = ("/var/lib/dpkg/status", "/var/lib/rpm", "/lib/apk/db/installed", "/etc/ld.so.cache")
#: A path that needs no quoting in overlayfs' mount options and in the lab's shell script.
_AWKWARD = set(",:\\ \t\n'\"")
#: Variables that name what only this machine has: its session's sockets, its terminal's window.
_LOCAL = (
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "SSH_AUTH_SOCK",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
)
#: A variable with one of these among the words of its name is not for the lab.
_SECRETS = frozenset(
    "APIKEY AUTH COOKIE CREDENTIAL CREDENTIALS KEY KEYS PASS PASSPHRASE PASSWD PASSWORD PAT SECRET SECRETS"
    " TOKEN TOKENS".split()
)
#: Nor is one whose value has a password: ``https://user:password@host``.
_CREDENTIALS = re.compile(r"://[^/@\s]+:[^/@\s]+@")


def places(live: str, *, foreign: bool = False) -> tuple[str, ...]:
    """The directories that the commands of one machine share, outer ones first; none holds *live*.

    On a *foreign* host, which cannot run this machine's programs, those of a virtual environment alone.
    """
    found = []
    live = os.path.join(os.path.realpath(live), "")
    own = [sys.prefix] if sys.prefix != sys.base_prefix else []
    for prefix in dict.fromkeys(own if foreign else ("/", "/usr", sys.base_prefix, sys.prefix)):
        for name in _PROGRAMS:
            path = os.path.join(os.path.realpath(prefix), name)
            ordinary = os.path.isdir(path) and not os.path.islink(path) and not _AWKWARD & set(path)
            if ordinary and not live.startswith(path + "/"):
                found.append(path)
    return tuple(sorted(found, key=lambda path: (path.count("/"), path)))


def own_directories() -> list[str]:
    """The directories of the root that hold this machine's data: not its programs, devices and state."""
    return sorted(
        entry.path
        for entry in os.scandir("/")
        if entry.is_dir(follow_symlinks=False)
        and entry.name not in _SYSTEM
        and not _AWKWARD & set(entry.path)
    )


def fingerprint(shared: tuple[str, ...]) -> str:
    """A hash that changes when something is installed, removed or upgraded in *shared*."""
    watched = [*shared, *_DATABASES]
    for path in shared:
        if os.path.basename(path) in ("lib", "lib64"):
            watched += map(str, Path(path).glob("python3*"))
            watched += map(str, Path(path).glob("python3*/*-packages"))
    times = [f"{path} {_time(path)}" for path in sorted(set(watched))]
    return hashlib.sha256("\n".join(times).encode(errors="surrogateescape")).hexdigest()[:12]


def variables(given: Mapping[str, str] | None = None, arch: str = "x86_64") -> dict[str, str]:
    """A command's environment: *given*, or of this process what may be seen there, and PYVMM_LAB."""
    ours = {name: value for name, value in harmless(os.environ).items() if name not in _LOCAL}
    kept = {**(ours if given is None else given), "PYVMM_LAB": arch}
    if not find(arch).native_programs:
        # Compiled packages come from there, the others from where this machine has them.
        paths = [system.PYTHON_PACKAGES, kept.get("PYTHONPATH", ""), sysconfig.get_path("purelib")]
        kept["PYTHONPATH"] = ":".join(filter(None, paths))
    return kept


def harmless(given: Mapping[str, str]) -> dict[str, str]:
    """*given* without what looks like a secret: a word of the name (API_KEY), user:password@ in a URL."""
    return {
        name: value
        for name, value in given.items()
        if _SECRETS.isdisjoint(name.upper().split("_")) and not _CREDENTIALS.search(value)
    }


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
