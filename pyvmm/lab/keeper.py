"""The process that manages one emulated host: starts QEMU, lends its channels, ends when idle.

It listens on the machine's control socket. A line of JSON a message::

    -> {"want": "channel"}   <- {"state": "starting" | "busy"} ..., then {"channel": N} or an error
                                {"error": "...", "again": whether another machine may do better}
    -> {"want": "status"}    <- {"ready": bool, "lent": N, "pid": N, "qemu": N, "idle": seconds}
    -> {"want": "retire"}    <- {"retiring": true}    it ends when nobody uses it
    -> {"want": "stop"}      <- {"stopping": true}    and the end of the stream when it is gone

A channel is lent for as long as the connection that asked for it stays open. Then its view is made
again, and the channel can be lent again. The kernel kills QEMU, which ``enclosure`` starts, when this process
ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from pyvmm.images import cache
from pyvmm.lab import enclosure, environment, image, inside, machine
from pyvmm.lab.channel import LabChannel
from pyvmm.lab.errors import LabError, LabLostError
from pyvmm.lab.log import Log, remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

#: Seconds without a command after which the machine ends.
IDLE = 600.0
#: Emulated hosts hang sometimes: seconds that a start may take, and how often it is tried.
START_LIMIT = 60.0
START_ATTEMPTS = 3
#: Seconds until QEMU has its sockets.
SOCKETS_LIMIT = 60.0
#: Seconds that making a view may take before the machine is ended.
RENEW_LIMIT = 60.0
#: Seconds between two checks that the host answers, and seconds it has for the answer.
PULSE = 5.0
PULSE_LIMIT = 40.0
#: Views kept ready, so that a command finds one at once.
AHEAD = 2
#: Seconds after which a connection that waits for a channel is told why.
PATIENCE = 1.0

_NEW, _READY, _LENT, _USED = range(4)


class Keeper:
    """One machine and its users. *once*: it ends when the first user disconnects."""

    def __init__(self, wanted: machine.LabMachine, booted: image.Image, *, once: bool) -> None:
        self.machine = wanted
        self.directory = wanted.directory
        self._image = booted
        self._once = once
        self._changed = threading.Condition()
        self._views = [_NEW] * inside.CHANNELS
        self._up = False
        self._ending = ""
        self._failed = False
        self._users = 0
        self._waiting = 0
        self._since = time.monotonic()
        self._wake_reader, self._wake_writer = os.pipe()
        self._gone = threading.Event()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._listener = self._listen()
        self._inode = machine.control_path(self.directory).stat().st_ino

    def run(self) -> None:
        """Start the machine and manage it until it is to end."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            self._start()
            threading.Thread(target=self._prepare_views, daemon=True).start()
            threading.Thread(target=self._check_host, daemon=True).start()
            self._watch()
        except LabError as error:
            self.end(str(error), failed=True)
        finally:
            self._tidy()

    def end(self, reason: str, *, failed: bool = False) -> None:
        """Make ``run`` return; all who wait for a channel get *reason*. With *failed* the log is kept."""
        with self._changed:
            if not self._ending:  # the first reason is the cause of the others
                self._ending, self._failed = reason, failed
                if failed:
                    print(f"pyvmm: {reason}", flush=True)  # into the log
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # new clients start another machine
        os.write(self._wake_writer, b"x")

    def _listen(self) -> socket.socket:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        path = machine.control_path(self.directory)
        path.unlink(missing_ok=True)  # of a keeper that was killed; the caller holds the lock
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(str(path))
        listener.listen(64)
        return listener

    def _start(self) -> None:
        problem: LabError = LabLostError("the emulated host was not started")
        for _ in range(START_ATTEMPTS):
            with self._changed:
                if self._ending:
                    raise LabLostError(self._ending)
            self._qemu = self._spawn()
            try:
                with LabChannel(machine.channel_path(self.directory, 0)) as channel:
                    status, output = channel.call(machine.renew_command(self.machine, 0), START_LIMIT)
                if status:
                    text = output.decode(errors="replace").strip()
                    raise LabLostError(f"the emulated host cannot mount this machine's files: {text}")
                with self._changed:
                    self._up = True
                    self._views[0] = _READY
                    self._since = time.monotonic()
                    self._changed.notify_all()
                return
            except LabError as error:
                problem = error
                self._kill()
        raise LabError(f"{problem}; what it said is in {machine.log_path(self.machine)}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start QEMU and wait for its sockets. Only in the main thread: QEMU ends with its parent thread."""
        program = self.machine.architecture.qemu
        for number in range(inside.PORTS):
            machine.channel_path(self.directory, number).unlink(missing_ok=True)
        command = enclosure.enclosed(
            machine.command(self.machine, self._image, Path(enclosure.SOCKETS), enclosure.EXPORT),
            machine.command(self.machine, self._image, self.directory),
            self.directory,
            self.machine.exposed,
        )
        variables = environment.harmless(os.environ)
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables)
        deadline = time.monotonic() + SOCKETS_LIMIT
        last = machine.channel_path(self.directory, inside.PULSE)
        while not last.exists():
            if qemu.poll() is not None:
                raise LabError(f"{program} ended with status {qemu.returncode} before the host booted")
            if time.monotonic() > deadline:
                qemu.kill()
                qemu.wait()
                raise LabLostError(f"{program} did not start within {SOCKETS_LIMIT:g} s")
            time.sleep(0.01)
        return qemu

    def _watch(self) -> None:
        """Wait for QEMU's end, for ``end``, or for a long time without users."""
        assert self._qemu is not None
        poller = select.poll()
        poller.register(self._wake_reader, select.POLLIN)
        with open(os.pidfd_open(self._qemu.pid)) as pidfd:
            poller.register(pidfd, select.POLLIN)
            self._wait_for_end(poller)

    def _wait_for_end(self, poller: select.poll) -> None:
        while True:
            with self._changed:
                left = self._since + IDLE - time.monotonic()
                if self._ending or (not self._users and left <= 0):
                    return
            if poller.poll(max(left, 1.0) * 1000):
                self.end(
                    f"the emulated host ended; what it said is in {machine.log_path(self.machine)}",
                    failed=True,
                )
                return

    def _prepare_views(self) -> None:
        """Replace used views, and prepare some in advance."""
        while True:
            with self._changed:
                while (number := self._next_view()) is None and not self._ending:
                    self._changed.wait()
                if self._ending:
                    return
            assert number is not None
            try:
                with LabChannel(machine.channel_path(self.directory, number)) as channel:
                    status, output = channel.call(machine.renew_command(self.machine, number), RENEW_LIMIT)
            except LabError as error:
                self.end(str(error), failed=True)
                return
            if status:
                text = output.decode(errors="replace").strip()
                self.end(f"the emulated host cannot renew a command's view of the files: {text}", failed=True)
                return
            with self._changed:
                self._views[number] = _READY
                self._changed.notify_all()

    def _check_host(self) -> None:
        """End a machine that no longer answers, even with commands on it: a hung machine does not recover."""
        path = machine.channel_path(self.directory, inside.PULSE)
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._ending, PULSE):
                    return
            try:
                with LabChannel(path) as channel:
                    channel.call(["true"], PULSE_LIMIT)
            except LabError as error:
                self.end(str(error), failed=True)
                return

    def _next_view(self) -> int | None:
        if _USED in self._views:
            return self._views.index(_USED)
        if self._views.count(_READY) < AHEAD and _NEW in self._views:
            return self._views.index(_NEW)
        return None

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down by end
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            try:
                request = json.loads(stream.readline() or "{}")
                want = request.get("want") if isinstance(request, dict) else None
                if want == "channel":
                    self._lend(connection, stream)
                elif want == "status":
                    _send(stream, self._status())
                elif want == "retire":
                    _send(stream, {"retiring": True})
                    self._retire()
                elif want == "stop":
                    _send(stream, {"stopping": True})
                    self.end("the emulated host was stopped")
                    self._gone.wait()
            except (OSError, ValueError):
                pass  # the client has disconnected

    def _lend(self, connection: socket.socket, stream: TextIO) -> None:
        number = None
        with self._changed:
            self._users += 1
            self._waiting += 1
        try:
            try:
                number = self._take(stream)
                if number is None:
                    _send(stream, {"error": self._ending, "again": self._up})
                    return
            finally:
                with self._changed:
                    self._waiting -= 1
                    self._changed.notify_all()
            _send(stream, {"channel": number})
            while connection.recv(64):
                pass
        finally:
            with self._changed:
                self._users -= 1
                self._since = time.monotonic()
                if number is not None:
                    self._views[number] = _USED
                self._changed.notify_all()
                over = self._once and not self._users
            if over:
                self.end("the machine was for one command")

    def _take(self, stream: TextIO) -> int | None:
        """A prepared view; None when the machine ends first."""
        told = ""
        while True:
            with self._changed:
                if self._ending:
                    return None
                if self._up and _READY in self._views:
                    number = self._views.index(_READY)
                    self._views[number] = _LENT
                    self._changed.notify_all()
                    return number
                state = "busy" if self._up else "starting"
                if told == state:
                    self._changed.wait()
                    continue
                if state == "busy" and self._changed.wait(PATIENCE):
                    continue
            told = state
            _send(stream, {"state": state})

    def _retire(self) -> None:
        with self._changed:
            self._once = True
            unused = not self._users
        if unused:
            self.end("the emulated host was replaced by a newer one")

    def _status(self) -> dict[str, object]:
        with self._changed:
            return {
                "ready": self._up,
                "lent": self._views.count(_LENT),
                "arch": self.machine.arch,
                "machine": self.machine.describe(),
                "pid": os.getpid(),
                "qemu": self._qemu.pid if self._qemu else 0,
                "idle": 0 if self._users else int(time.monotonic() - self._since),
            }

    def _kill(self) -> None:
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()

    def _tidy(self) -> None:
        self._kill()
        with self._changed:  # waiting clients get the reason
            self._changed.wait_for(lambda: not self._waiting, timeout=PATIENCE)
        with cache.locked(self.directory):
            try:
                ours = machine.control_path(self.directory).stat().st_ino == self._inode
            except OSError:
                ours = False
            if ours:  # otherwise a new keeper has taken it
                shutil.rmtree(self.directory, ignore_errors=True)
                if not self._failed:
                    remove(machine.log_path(self.machine))
        self._listener.close()
        self._gone.set()


def _send(stream: TextIO, message: dict[str, object]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def main(argument: str) -> None:
    """The keeper's process; *argument* is what ``lease`` wrote."""
    wanted = json.loads(argument)
    for name in ("writable", "shared", "exposed"):
        wanted["machine"][name] = tuple(wanted["machine"][name])
    programs = wanted["system"]
    booted = image.Image(Path(wanted["kernel"]), Path(wanted["initrd"]), Path(programs) if programs else None)
    keeper = Keeper(machine.LabMachine(**wanted["machine"]), booted, once=wanted["once"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.end("the emulated host was stopped"))
    log = Log(machine.log_path(keeper.machine))
    try:
        keeper.run()
    finally:
        log.close()
    os._exit(0)  # without joining threads that wait for the host
