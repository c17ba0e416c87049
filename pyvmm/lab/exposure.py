"""What the lab hides of this machine's files, and what of that a command needs all the same.

Hidden are the kernel's and the sessions' state (``STATE``) and, in home directories, whatever begins with a
dot: keys, tokens, histories. A command needs its interpreter, its packages, its working directory, pyvmm's
cache, and the paths among its words; of programs in hidden places those that PATH leads to.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys

from pyvmm.host.cache import cache_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Directories whose contents describe processes, devices and sessions of this machine. The emulated host has
#: its own of all but /run.
STATE = ("/dev", "/proc", "/run", "/sys")
#: Directories of homes in which program managers keep programs and nothing secret.
_PROGRAMS = (".asdf", ".linuxbrew", ".nodenv", ".nvm", ".pyenv", ".rbenv", ".rustup", ".sdkman")


def hidden() -> list[str]:
    """The files and directories of homes that are hidden: real paths of what is there now, in order.

    A symbolic link is none: what it leads to is hidden or not by its own place.
    """
    found = []
    for home in _homes():
        for name, mode in _dotted(home):
            if (stat.S_ISDIR(mode) and name not in _PROGRAMS) or stat.S_ISREG(mode):
                found.append(os.path.join(home, name))
    return sorted(found)


def digest() -> str:
    """A hash that changes when a directory comes to those that are hidden, or goes."""
    directories = [path for path in hidden() if os.path.isdir(path)]
    return hashlib.sha256("\n".join(directories).encode(errors="surrogateescape")).hexdigest()[:12]


def needed(
    words: Sequence[str] = (), directory: str | None = None, more: Sequence[str] = ()
) -> tuple[str, ...]:
    """The paths in hidden places that a command is to see, in order.

    :param words: the command's; those that are paths count
    :param directory: its working directory, by default this process's
    :param more: further paths
    """
    here = directory or os.getcwd()
    covers = [*hidden(), "/run"]
    named = (os.path.join(here, word) for word in words)
    wanted = [path for path in named if os.path.exists(path)]
    wanted += [_checkout(here), *more, *_software()]
    found = set()
    for path in filter(os.path.exists, wanted):
        # Both: a link in a hidden place is hidden like what it leads to.
        for place in (os.path.abspath(path), os.path.realpath(path)):
            if any(_within(place, cover) for cover in covers):
                found.add(place)
    return tuple(sorted(found))


def plan(covers: Sequence[str], exposed: Sequence[str]) -> list[tuple[str, bool]]:
    """Which paths are to be covered (True) and which shown again (False), outer ones first."""
    steps: dict[str, bool] = {}
    for path in sorted({*covers, *exposed}, key=lambda path: (path.count("/"), path)):
        covered = _state(steps, path)
        if path in exposed and covered:
            steps[path] = False
        elif path not in exposed and not covered:
            steps[path] = True
    return list(steps.items())


def _state(steps: dict[str, bool], path: str) -> bool:
    """Whether *steps* leave *path* covered: what is done to the innermost directory above it counts."""
    above = os.path.dirname(path)
    while above != "/":
        if above in steps:
            return steps[above]
        above = os.path.dirname(above)
    return False


def _homes() -> list[str]:
    """The home directories of this user, of root and of all in /home; real paths."""
    found = {os.environ.get("HOME", ""), "/root"}
    try:
        import pwd

        found.add(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):
        pass
    try:
        with os.scandir("/home") as entries:
            found.update(entry.path for entry in entries)
    except OSError:
        pass
    return sorted({os.path.realpath(path) for path in found if os.path.isabs(path) and os.path.isdir(path)})


def _dotted(home: str) -> Iterator[tuple[str, int]]:
    """Name and mode of what begins with a dot in *home*; nothing where this user may not look."""
    try:
        with os.scandir(home) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    yield entry.name, entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return


def _software() -> list[str]:
    """The interpreter, its modules, pyvmm, its cache, the directories of PATH, TMPDIR, the name servers."""
    programs = [*os.environ.get("PATH", "").split(":"), os.path.dirname(sys.executable)]
    modules = os.environ.get("PYTHONPATH", "").split(":") + sys.path
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = [sys.prefix, sys.base_prefix, package, cache_directory() or "", os.environ.get("TMPDIR", "")]
    found.append("/etc/resolv.conf")  # a link into /run in many distributions
    for path in filter(os.path.isabs, programs):
        prefix = os.path.dirname(path)
        # Without `site`, sys.prefix is not that of a virtual environment.
        found.append(prefix if os.path.exists(os.path.join(prefix, "pyvenv.cfg")) else path)
    return [path for path in [*found, *modules] if os.path.isabs(path)]


def _checkout(path: str) -> str:
    """The directory at or above *path* that has a `.git`; *path* where there is none."""
    above = path
    while above != os.path.dirname(above):
        if os.path.exists(os.path.join(above, ".git")):
            return above
        above = os.path.dirname(above)
    return path


def _within(path: str, cover: str) -> bool:
    return path == cover or path.startswith(cover + "/")
