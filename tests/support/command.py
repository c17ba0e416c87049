"""``pyvmm`` as a user calls it: a process, its streams, its exit code."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "firmware" / "x86_64" / "bin"
#: Both ways in: the module, and the launcher where it is installed beside the interpreter.
MODULE = [sys.executable, "-m", "pyvmm"]
LAUNCHER = [str(Path(sys.executable).parent / "pyvmm")]
#: Seconds a command gets; they take tenths of one.
LIMIT = 60.0

PASSED = 32
EXIT = str(BIN / "exit.bin")
SPIN = str(BIN / "spin.bin")
HLT = str(BIN / "hlt.bin")


def environment() -> dict[str, str]:
    """This one's, with the checkout on the module path: tests run in folders of their own."""
    wanted = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYVMM"))}
    return {**wanted, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def pyvmm(
    *arguments: str, way: Sequence[str] = MODULE, stdin: bytes = b"", **keys: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end; stdout and stderr as bytes."""
    keys.setdefault("env", environment())
    return subprocess.run(
        [*way, *arguments], input=stdin, capture_output=True, timeout=LIMIT, check=False, **keys
    )


def start(*arguments: str, way: Sequence[str] = MODULE, **keys: Any) -> subprocess.Popen[bytes]:
    """Start; stdout and stderr are pipes unless told otherwise."""
    keys = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keys}
    return subprocess.Popen([*way, *arguments], env=environment(), **keys)


@contextmanager
def starter(*first: str) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts ``pyvmm`` with *first* and what it is called with; what still runs at the end is killed."""
    processes = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        processes.append(start(*first, *arguments))
        return processes[-1]

    try:
        yield begin
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def complains(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """Assert exit code *code* and exactly one line on stderr, with *words* in it."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, done
    assert len(lines) == 1 and done.stderr.endswith(b"\n"), done
    assert lines[0].startswith("pyvmm: "), done
    for word in words:
        assert word in lines[0], done


def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        select.select([], [], [], 0.002)


def read_until(stream: Any, words: bytes) -> bytes:
    """Read *stream*, a pipe, until *words* come."""
    seen = b""
    while words not in seen:
        assert select.select([stream], [], [], LIMIT)[0], seen
        data = os.read(stream.fileno(), 4096)
        assert data, seen
        seen += data
    return seen


class OnTerminal:
    """A command with a pty as its controlling terminal; the test holds the other end."""

    def __init__(self, *arguments: str, way: Sequence[str] = MODULE) -> None:
        self.master, slave = os.openpty()
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [*way, *arguments], preexec_fn=lambda: os.login_tty(slave), env=environment()
        )
        os.close(slave)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        """Read the terminal until *text* comes."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            assert select.select([self.master], [], [], end - time.monotonic())[0], self.seen
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(text)[2]

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.master)[3] & (termios.ICANON | termios.ECHO)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.master) == self.before

    @property
    def rest(self) -> bytes:
        """What is still to be read, after the end."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 4096)
            except OSError:  # EIO: the last of the other end has gone
                break
            self.seen += data
        return self.seen

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        return self.process.wait(LIMIT)

    def stopped(self) -> bool:
        """Wait until the process has stopped, as a job does."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        return os.WIFSTOPPED(status)

    def hang_up(self) -> None:
        """The terminal goes away."""
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        if self.master >= 0:
            os.close(self.master)
