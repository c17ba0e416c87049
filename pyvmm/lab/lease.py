"""Borrowing a channel of a machine, which is started when there is none."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict

from pyvmm.errors import PyvmmError
from pyvmm.host import interpreter
from pyvmm.images import cache
from pyvmm.lab import image, machine
from pyvmm.lab.channel import LabChannel
from pyvmm.lab.enclosure import refused
from pyvmm.lab.errors import LabError, LabLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeVar

    T = TypeVar("T")
    #: Told what is waited for: "starting", "busy", then "" when the wait is over.
    Progress = Callable[[str], None]

#: A keeper that ends just as it is asked is tried again this often.
ATTEMPTS = 3
#: Seconds a keeper's process may take to listen.
_KEEPER_LIMIT = 30.0


class Lease:
    """Channel *number* of a machine, lent to this process until ``close``; a context manager."""

    def __init__(self, connection: socket.socket, directory: Path, number: int) -> None:
        self._connection = connection
        self.number = number
        self.path = machine.channel_path(directory, number)
        self.root = machine.view(number)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the channel."""
        self._connection.close()


def borrow(
    wanted: machine.LabMachine, progress: Progress, say: Callable[[str], None], *, once: bool = False
) -> Lease:
    """A channel of the machine *wanted*. *once*: it ends when the lease does.

    *say* is called with a text before something is fetched for a first start, and when the machine that was
    started sees what should be hidden. Raises LabError, PackageError and what else ``image.prepare`` raises,
    each a PyvmmError.
    """
    try:
        for attempt in range(ATTEMPTS):
            running = _connect(wanted.directory)
            connection = running or _start(wanted, say, once=once)
            try:
                number = _ask(connection, progress)
            except LabLostError:
                connection.close()
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            except BaseException:
                connection.close()
                raise
            reason = "" if running else refused(wanted.directory)
            if reason:
                progress("")
                say(f"the lab sees this machine's home directories and /run in whole: {reason}")
            return Lease(connection, wanted.directory, number)
    finally:
        progress("")
    raise AssertionError("unreachable")


def use(
    wanted: machine.LabMachine,
    work: Callable[[Lease, LabChannel], T],
    progress: Progress,
    say: Callable[[str], None],
    *,
    once: bool = False,
) -> T:
    """What *work* gives with a channel borrowed for it; the other parameters are those of ``borrow``.

    A machine that does not answer before the work has begun is ended, and another one tried. Raises LabError,
    LabLostError, and what else ``borrow`` raises, each a PyvmmError.
    """
    for last in (False, True):
        with borrow(wanted, progress, say, once=once) as lent, LabChannel(lent.path) as channel:
            try:
                return work(lent, channel)
            except LabLostError as error:
                if last or channel.greeted:
                    log = machine.log_path(wanted)
                    raise LabLostError(f"{error}; what it said is in {log}") from error
        ask(wanted.directory, "stop")
    raise AssertionError("unreachable")


def ask(directory: Path, want: str) -> dict[str, object] | None:
    """What the keeper in *directory* answers to "status", "retire" or "stop"; None when there is none."""
    connection = _connect(directory)
    if connection is None:
        return None
    with connection, connection.makefile("rw") as stream:
        try:
            stream.write(json.dumps({"want": want}) + "\n")
            stream.flush()
            answer: dict[str, object] = json.loads(stream.readline() or "null")
            if want == "stop":
                stream.read()  # until it is gone
        except (OSError, ValueError):
            return None
    return answer


def _ask(connection: socket.socket, progress: Progress) -> int:
    """Wait for a channel. Raises LabError with the keeper's reason, LabLostError when it is gone."""
    try:
        connection.sendall(b'{"want": "channel"}\n')
        received = b""
        while data := connection.recv(4096):
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise (LabLostError if answer["again"] else LabError)(str(answer["error"]))
                if "channel" in answer:
                    return int(answer["channel"])
                progress(str(answer["state"]))
    except OSError as error:
        raise LabLostError(f"the emulated host's keeper is gone: {error.strerror}") from error
    raise LabLostError("the emulated host's keeper ended before it lent a channel; try again")


def _connect(directory: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(str(machine.control_path(directory)))
    except OSError:
        connection.close()
        return None
    return connection


def _start(wanted: machine.LabMachine, say: Callable[[str], None], *, once: bool) -> socket.socket:
    """Start a keeper, unless another process does, and connect to it."""
    machine.find_qemu(wanted.arch)
    booted = image.prepare(wanted.architecture, say)
    with cache.locked(wanted.directory):
        connection = _connect(wanted.directory)
        if connection is not None:
            return connection
        for older in machine.state_directory().glob(f"{wanted.family}-????????"):
            ask(older, "retire")
        with machine.log_path(wanted).open("wb") as log:
            keeper = _spawn(wanted, booted, log.fileno(), once=once)
        deadline = time.monotonic() + _KEEPER_LIMIT
        while keeper.poll() is None and time.monotonic() < deadline:
            connection = _connect(wanted.directory)
            if connection is not None:
                keeper.returncode = 0  # it outlives us; nobody is to wait for it
                return connection
            time.sleep(0.01)
    keeper.kill()
    keeper.wait()
    lines = machine.log_path(wanted).read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise LabError(f"the emulated host's keeper did not start: {lines[-1]}")


def _spawn(
    wanted: machine.LabMachine, booted: image.Image, log: int, *, once: bool
) -> subprocess.Popen[bytes]:
    task = {
        "machine": asdict(wanted),
        "kernel": str(booted.kernel),
        "initrd": str(booted.initrd),
        "system": str(booted.system or ""),
        "once": once,
    }
    try:
        return subprocess.Popen(
            interpreter.command("pyvmm.lab.keeper", task),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise PyvmmError(f"cannot start {sys.executable}: {error.strerror}") from error
