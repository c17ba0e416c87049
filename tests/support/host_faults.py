"""``pyvmm run`` on a host that is short of something: it works, or says what is missing in one sentence."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from errno import EAGAIN, EMFILE, ENOMEM, ENOSPC
from pathlib import Path

from tests.support.command import LIMIT, PASSED, ROOT, environment, until
from tests.support.firmware_guest import BIN

#: As the launcher does, without its shell, which needs descriptors and memory of its own.
_WAY = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, *{[path for path in sys.path if path.endswith("site-packages")]!r}]
from pyvmm.bundle import load
load()
from pyvmm.cli.main import entry
entry()
"""
WAY = [sys.executable, "-I", "-S", "-c", _WAY]
EXIT = str(BIN / "exit.bin")
#: Codes of a command that cannot do what it was asked for: the host's fault, a device's.
REFUSED = (64, 6)
#: What is said by a command that works.
_ANNOUNCEMENTS = ("the console is pty", "virtio console port", "no other process can reach this guest")
#: What is said before it of a part of the sandbox that could not be had for want of something.
_LACKING = "pyvmm: this host lacks a part of the sandbox, and the process goes on without it: "
_SHORTAGES = tuple(os.strerror(number) for number in (EMFILE, ENOMEM, EAGAIN, ENOSPC))
#: Devices of all kinds that need nothing of the host but what every user has.
MANY = (
    *("--console", "pty", "--disk", "raw.img", "--disk", "raw2.img,snapshot", "--hvc", "socket:hvc"),
    *("--hvc", "pty,port,name=a", "--net", "switch:a", "--net", "switch:a", "--net", "link:link", "--rng"),
    *("--balloon", "--vsock", "7,path=vsock", "--trace-device", "disk0=t", "--name", "few", "--cpus", "2"),
)


def prepare(folder: Path) -> Mapping[str, str]:
    """Make the files that commands need in *folder*, where they run; the environment for them."""
    for name in ("raw.img", "raw2.img"):
        (folder / name).write_bytes(bytes(1 << 16))
    places = {"XDG_RUNTIME_DIR": "run", "TMPDIR": "tmp", "PYVMM_CACHE": "cache"}
    for name in places.values():
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    return {**environment(), **{name: str(folder / place) for name, place in places.items()}}


def run(
    options: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limits: Mapping[int, int] | None = None,
    before: Sequence[str] = (),
    guest: str = EXIT,
) -> subprocess.CompletedProcess[bytes]:
    """``pyvmm run`` of a *guest* that ends by itself, below *limits* (setrlimit(2)).

    *before*: a command that executes the one after it
    """
    return _call(
        [*before, *WAY, "run", "--firmware", guest, "--memory", "16M", *options], folder, environment, limits
    )


def begins(
    folder: Path, environment: Mapping[str, str], limits: Mapping[int, int], before: Sequence[str] = ()
) -> bool:
    """Whether the interpreter itself can load the command line, so that what follows is ours."""
    try:
        return _call([*before, *WAY, "--version"], folder, environment, limits).returncode == 0
    except (OSError, subprocess.SubprocessError):  # it cannot even be started
        return False


def _call(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], limits: Mapping[int, int] | None
) -> subprocess.CompletedProcess[bytes]:
    def apply() -> None:
        for which, most in (limits or {}).items():
            resource.setrlimit(which, (most, most))

    if words[0] == _SETPRIV[0]:
        until(_has_no_processes)  # of a command before it: a VM goes on for some milliseconds
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        preexec_fn=apply,
        check=False,
    )


def judge(done: subprocess.CompletedProcess[bytes], notices: int = 0) -> str:
    """The sentence of a command that was refused, empty for one that works; *notices* may come before.

    Raises AssertionError.
    """
    text = done.stderr.decode(errors="replace")
    if "Fatal Python error" in text and "MemoryError" in text:  # the interpreter's own end, by abort(3)
        text = text.splitlines(True)[-1]
        assert "ended by SIGABRT" in text, done
        return text
    lines = text.splitlines()
    assert all(line.startswith("pyvmm: ") for line in lines), done
    said = [line for line in lines if not line.removeprefix("pyvmm: ").startswith(_ANNOUNCEMENTS)]
    lacking = [line for line in said if line.startswith(_LACKING) and line.endswith(_SHORTAGES)]
    assert len(lacking) <= 1, done
    said = [line for line in said if line not in lacking]
    assert not any(word in line for line in said for word in ("internal error", "Traceback")), done
    if done.returncode == PASSED:
        assert len(said) <= notices, done
        return ""
    assert done.returncode in REFUSED and 1 <= len(said) <= notices + 1, done
    return said[-1].removeprefix("pyvmm: ")


#: A user who has no processes, and may read all files as root may.
_USER = 54321
_SETPRIV = (
    *("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"),
    *(
        "--bounding-set=-all,+dac_override",
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
    ),
)


def _has_no_processes() -> bool:
    """Whether the ordinary user has none."""
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nUid:\t{_USER}\t" in path.read_text():
                return False
        except OSError:
            pass  # it is gone
    return True


def other_user(folder: Path) -> tuple[str, ...]:
    """For *before*: become an ordinary user, whose folders of *folder* are; for root alone."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _USER, _USER)
    return _SETPRIV


def on_full_disk(folder: Path, kib: int, inodes: int) -> tuple[str, ...]:
    """For *before*: a file system of *kib* KiB and *inodes* files is at *folder*; 0 is without a limit."""
    size = f"size={kib}k,nr_inodes={inodes},mode=700"
    script = f'mount -t tmpfs -o {size} none {folder} && cd {folder} && exec "$@"'
    return ("unshare", *(() if os.geteuid() == 0 else ("-r",)), "-m", "sh", "-c", script, "sh")
