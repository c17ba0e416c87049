"""``Guest``: a virtual machine driven from Python."""

from __future__ import annotations

import os
import shlex
import time
from typing import overload

from pyvmm.config import Config
from pyvmm.config.toml import read_toml
from pyvmm.errors import ConfigError
from pyvmm.exec.request import Request
from pyvmm.guest.commands import STDERR, STDOUT
from pyvmm.guest.console import GuestConsole
from pyvmm.guest.errors import CommandError, GuestEnded, GuestTimeout, NoCommandsError
from pyvmm.guest.files import Files
from pyvmm.guest.life import Life
from pyvmm.guest.process import Process, Running
from pyvmm.guest.result import Result
from pyvmm.guest.watch import Until, Watch, deadline_of
from pyvmm.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal

    from pyvmm.guest.commands import Commands
    from pyvmm.guest.watch import Waits
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.machine import Machine
    from pyvmm.virtio.device import VirtioDevice

    #: What runs in the guest: a text for ``/bin/sh -c``, or a program and its arguments.
    CommandLine = str | Sequence[str | bytes]

#: Bytes of output that ``run`` collects at most.
OUTPUT_MAX = 256 << 20
#: Seconds between two tries of ``wait_until`` and its like.
RETRY = 0.1

_SOCKETS = ["cat", "/proc/net/tcp", "/proc/net/tcp6"]


class Guest:
    """A guest that runs in threads of this process, and the ways to drive it.

    :param config: a ``Config``, or the path of a board file, or nothing
    :param devices: virtio devices of your own; the machine closes them
    :param commands: False leaves the guest's own init in charge of a Linux kernel: no commands then
    :param keys: ``Config``'s keywords; they win over *config*'s

    Without a kernel or firmware it is the default guest: Debian's stock kernel with a small user space. The
    guest starts with the ``with`` block, or by ``start``. All methods may be called by any thread. All
    methods raise ConfigError before the guest was started. All methods that run commands or wait for them
    raise NoCommandsError for a guest that has no server for them, GuestTimeout, and GuestEnded as soon as
    the guest has ended. Raises ConfigError and StartError.
    """

    def __init__(
        self,
        config: Config | str | os.PathLike[str] | None = None,
        *,
        devices: Sequence[VirtioDevice] = (),
        commands: bool = True,
        kvm_path: str = "/dev/kvm",
        **keys: Any,
    ) -> None:
        made, name, default = _config(config, keys)
        self._watch = Watch()
        self.console = GuestConsole(self._watch, lambda: self._life.ending, self._tail)
        self._no_commands = _why_no_commands(made, commands)
        self._files = Files(self._watch, self._ready, self._tail)
        self._life = Life(
            made, name, self._watch, self.console.backend, devices, self._no_commands, default, kvm_path
        )

    # Life

    def __enter__(self) -> Guest:
        if not self._life.started:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pyvmm.Guest {self.name}: {self.state}>"

    @property
    def config(self) -> Config:
        """What was asked for."""
        return self._life.config

    @property
    def name(self) -> str:
        """What the guest is called, also by ``pyvmm ps``; without a choice of yours, set by ``start``."""
        return self._life.name

    @property
    def machine(self) -> Machine:
        """The machine; after a reboot another one."""
        return self._life.machine

    @property
    def ending(self) -> Ending | None:
        """How the guest ended; None while it runs."""
        return self._life.ending

    @property
    def boots(self) -> int:
        """How many machines the guest has had: 1 after the start, and one more for each reboot."""
        return self._life.boots

    @property
    def state(self) -> str:
        """``new``, ``running`` or ``ended: REASON``."""
        if self._life.ending is not None:
            return f"ended: {self._life.ending.reason}"
        return "running" if self._life.started else "new"

    def start(self) -> None:
        """Start the guest. Raises StartError."""
        self._life.start()

    def close(self) -> None:
        """End the guest at once and release everything. Idempotent."""
        self._life.close()

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait for the guest's end. Raises GuestTimeout."""
        return self._watch.drive(self._ended(timeout))

    async def wait_async(self, timeout: float | None = None) -> Ending:
        """``wait``, awaited."""
        return await self._watch.drive_async(self._ended(timeout))

    def poweroff(self, timeout: float | None = None) -> Ending:
        """Have the guest shut down, by its init or by the power button, and wait for its end.

        Raises GuestTimeout when it has not ended in time; it continues then, and ``kill`` ends it.
        """
        if self._no_commands:
            self.power_button()
        else:
            commands = self._watch.drive(self._ready("poweroff", deadline_of(timeout), timeout))
            commands.power(reboot=False)
        return self.wait(timeout)

    def reboot(self, timeout: float | None = None) -> None:
        """Have the guest's init reboot, and wait until commands can be run again.

        The next machine is built like this one. Raises ConfigError for a guest with *devices* of its own,
        which went with the first machine; NoCommandsError, GuestTimeout, GuestEnded.
        """
        self._check_started("reboot")
        if not self._life.can_restart:
            raise ConfigError("reboot: this guest has devices of its own, which a second machine cannot have")
        deadline = deadline_of(timeout)
        boots = self._life.boots
        commands = self._watch.drive(self._ready("reboot", deadline, timeout))
        with self._watch.condition:
            self._life.reboot_wanted = True
        commands.power(reboot=True)
        self._watch.drive(self._ready("reboot", deadline, timeout, boots))

    def power_button(self) -> None:
        """Press the power button and do not wait."""
        self._check_started("power_button")
        self._life.machine.power_button()

    def kill(self) -> Ending:
        """End the guest at once, as a power failure would; how it ended."""
        self._check_started("kill")
        self._life.close()
        assert self._life.ending is not None, "close waits for the end"
        return self._life.ending

    def pause(self) -> None:
        """Stop the guest's CPUs between two instructions; returns when all are stopped."""
        self._life.machine.pause()

    def resume(self) -> None:
        """Let the CPUs continue."""
        self._life.machine.resume()

    # Commands

    @overload
    def run(
        self,
        command: CommandLine,
        *,
        input: str | bytes | None = ...,
        timeout: float | None = ...,
        env: Mapping[str, str] | None = ...,
        cwd: str | None = ...,
        user: str | int | None = ...,
        check: bool = ...,
        text: Literal[True] = ...,
    ) -> Result[str]: ...

    @overload
    def run(
        self,
        command: CommandLine,
        *,
        input: str | bytes | None = ...,
        timeout: float | None = ...,
        env: Mapping[str, str] | None = ...,
        cwd: str | None = ...,
        user: str | int | None = ...,
        check: bool = ...,
        text: Literal[False],
    ) -> Result[bytes]: ...

    def run(
        self,
        command: CommandLine,
        *,
        input: str | bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | int | None = None,
        check: bool = False,
        text: bool = True,
    ) -> Result[str] | Result[bytes]:
        """Run a command in the guest to its end.

        :param command: a text goes to the guest's ``/bin/sh -c``; a list is a program and its arguments
        :param input: its standard input; None for an empty one
        :param timeout: seconds after which the command is killed; they begin with the call, a boot included
        :param env: variables added to the guest's own
        :param cwd: the directory it runs in
        :param user: whose rights it has: a name of the guest's /etc/passwd or a number; None for root
        :param check: whether a status that is not 0 raises CommandError
        :param text: whether the outputs are ``str`` (UTF-8) or ``bytes``

        Raises GuestTimeout, GuestEnded, CommandError (also for more than 256 MiB of output), NoCommandsError,
        ExecRequestError.
        """
        return self._watch.drive(self._run(command, input, timeout, env, cwd, user, check, text))

    async def run_async(
        self,
        command: CommandLine,
        *,
        input: str | bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | int | None = None,
        check: bool = False,
        text: bool = True,
    ) -> Result[Any]:
        """``run``, awaited. Cancelling it kills the command."""
        return await self._watch.drive_async(self._run(command, input, timeout, env, cwd, user, check, text))

    def check(self, command: CommandLine, **options: Any) -> Result[Any]:
        """``run`` a command that must end with status 0. Raises CommandError."""
        return self.run(command, check=True, **options)

    def fails(self, command: CommandLine, **options: Any) -> Result[Any]:
        """``run`` a command that must not end with status 0. Raises CommandError."""
        result = self.run(command, **options)
        if not result.status:
            raise CommandError(f"{_name(command)}: status 0, and it was to fail", result, self._tail())
        return result

    def spawn(
        self,
        command: CommandLine,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | int | None = None,
        text: bool = True,
        timeout: float | None = None,
    ) -> Process[Any]:
        """Start a command; *timeout* is how long a guest that still boots gets. Parameters as of ``run``."""
        name = _name(command)
        request = _request(command, env, cwd, user)
        commands = self._watch.drive(self._ready(name, deadline_of(timeout), timeout))
        running = Running(self._watch, commands, commands.start(request), name, self._tail)
        return Process(running, text)

    # Files

    def put(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        timeout: float | None = None,
        user: str | int | None = None,
    ) -> None:
        """Copy a file, or a directory with all in it, to *target* in the guest, which it becomes.

        Modes, modification times and symbolic links are kept, the owner is *user* (None: root). Directories
        above *target* are made; a directory that exists is added to. The guest needs no tar and no network.
        Raises GuestFileError, GuestTimeout, GuestEnded, NoCommandsError; OSError for what the host cannot
        read; CpioError for a file of 4 GiB and more.
        """
        self._files.put(source, target, timeout, user)

    def get(
        self,
        source: str,
        target: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        user: str | int | None = None,
        limit: int = 64 << 30,
    ) -> None:
        """Copy a file or a directory of the guest to *target* on the host, which it becomes.

        Files, directories and symbolic links that stay inside *target* are made, with their modes, never
        devices or set-user-ID bits. Raises as ``put`` does; CpioError also for what a guest sends against the
        rules, and for more than *limit* bytes of content.
        """
        self._files.get(source, target, timeout, user, limit)

    def read(self, path: str, *, timeout: float | None = None, user: str | int | None = None) -> bytes:
        """The content of a file of the guest, at most 256 MiB; also of those in /proc and /sys.

        Raises GuestFileError, GuestTimeout, GuestEnded, NoCommandsError; CpioError for what a guest sends
        against the rules.
        """
        return self._files.read(path, timeout, user)

    def write(
        self,
        path: str,
        data: str | bytes,
        *,
        mode: int = 0o644,
        timeout: float | None = None,
        user: str | int | None = None,
    ) -> None:
        """Make *path* in the guest a file of *data*, with *mode*. Raises as ``put`` does."""
        self._files.write(path, data.encode() if isinstance(data, str) else bytes(data), mode, timeout, user)

    # Waiting for the guest

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until commands can be run: the guest has booted. Raises GuestTimeout, GuestEnded."""
        self._watch.drive(self._ready("boot", deadline_of(timeout), timeout))

    def wait_until(self, command: CommandLine, timeout: float | None = None, **options: Any) -> Result[Any]:
        """Run *command* repeatedly until its status is 0; its last result.

        Raises GuestTimeout, and CommandError for more than 256 MiB of output.
        """
        return self._watch.drive(self._repeating(command, timeout, options, succeeds=True))

    def wait_until_fails(
        self, command: CommandLine, timeout: float | None = None, **options: Any
    ) -> Result[Any]:
        """Run *command* repeatedly until its status is not 0; its last result.

        Raises GuestTimeout, and CommandError for more than 256 MiB of output.
        """
        return self._watch.drive(self._repeating(command, timeout, options, succeeds=False))

    def wait_for_file(self, path: str, timeout: float | None = None) -> None:
        """Wait until the guest has something at *path*. Raises as ``wait_until``."""
        self.wait_until(["test", "-e", path], timeout)

    def wait_for_port(self, port: int, timeout: float | None = None) -> None:
        """Wait until a program of the guest's listens on TCP port *port*, at any of its addresses.

        The guest needs no network for that. Raises ConfigError for a *port* that is not from 1 to 65535;
        raises as ``wait_until``.
        """
        if not 0 < port < 1 << 16:
            raise ConfigError(f"wait_for_port: {port} is no port; give a number from 1 to 65535")
        self._watch.drive(self._listening(port, timeout))

    # Inside

    def _listening(self, port: int, timeout: float | None) -> Waits[None]:
        name = f"a program was to listen on port {port}"
        deadline = deadline_of(timeout)
        yield from self._ready(name, deadline, timeout)
        # Of proc_pid_net(5): a line a socket, its address ADDRESS:PORT and its state in hexadecimal digits.
        wanted, listening = f":{port:04X}", "0A"
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                sockets = yield from self._run(_SOCKETS, None, left, None, None, None, False, True)
            except GuestTimeout:
                raise GuestTimeout(name, timeout or 0.0, self._tail()) from None
            rows = [line.split() for line in sockets.stdout.splitlines()]
            if any(len(row) > 3 and row[1].endswith(wanted) and row[3] == listening for row in rows):
                return
            yield Until(lambda: self._life.ending, time.monotonic() + RETRY)

    def _tail(self) -> str:
        return self._life.machine.log.text()

    def _check_started(self, what: str) -> None:
        if not self._life.started:
            raise ConfigError(f"{what}: the guest is not started; use `with`, or call start() first")

    def _ended(self, timeout: float | None) -> Waits[Ending]:
        self._check_started("wait")
        ending = yield Until(lambda: self._life.ending, deadline_of(timeout))
        if not ending:
            raise GuestTimeout("the guest was to end", timeout or 0.0, self._tail())
        return ending  # type: ignore[no-any-return]

    def _ready(
        self, what: str, deadline: float | None, timeout: float | None, boots: int = 0
    ) -> Waits[Commands]:
        """Wait until the machine after the first *boots* ones runs commands."""
        self._check_started(what)
        if self._no_commands:
            raise NoCommandsError(f"{what}: {self._no_commands}")
        life = self._life

        def ready() -> object:
            commands = life.commands
            if life.boots > boots and commands is not None and (commands.ready or commands.error):
                return commands
            return life.ending

        answer = yield Until(ready, deadline)
        if not answer:
            raise GuestTimeout(f"{what}: the guest's init was to answer", timeout or 0.0, self._tail())
        if answer is life.ending:
            raise GuestEnded(what, answer, self._tail())
        if answer.error is not None:
            raise answer.error
        return answer  # type: ignore[no-any-return]

    def _run(
        self,
        command: CommandLine,
        input: str | bytes | None,
        timeout: float | None,
        env: Mapping[str, str] | None,
        cwd: str | None,
        user: str | int | None,
        check: bool,
        text: bool,
    ) -> Waits[Result[Any]]:
        name = _name(command)
        request = _request(command, env, cwd, user)
        deadline = deadline_of(timeout)
        commands = yield from self._ready(name, deadline, timeout)
        one = commands.start(request, OUTPUT_MAX)
        running = Running(self._watch, commands, one, name, self._tail)
        in_time = True
        try:
            if input:
                raw = input.encode() if isinstance(input, str) else bytes(input)
                in_time = yield from running.writing(raw, deadline)
            one.close_input()
            in_time = in_time and (yield from running.ending(deadline))
        finally:
            if not one.over:
                one.abandon()
        out, err = (bytes(one.output[stream]) for stream in (STDOUT, STDERR))
        status, duration = -1 if one.status is None else one.status, one.ended - one.begun
        result: Result[Any] = Result(status, out, err, one.signal, duration)
        if text:
            texts = out.decode(errors="replace"), err.decode(errors="replace")
            result = Result(status, *texts, one.signal, duration)
        if not in_time:
            raise GuestTimeout(name, timeout or 0.0, self._tail(), result)
        if one.overflow:
            raise CommandError(
                f"{name}: it wrote more than {format_size(OUTPUT_MAX)}; use spawn and read as it writes",
                result,
                self._tail(),
            )
        if check and result.status:
            raise CommandError(f"{name}: {_how(result)}", result, self._tail())
        return result

    def _repeating(
        self, command: CommandLine, timeout: float | None, options: dict[str, Any], *, succeeds: bool
    ) -> Waits[Result[Any]]:
        deadline = deadline_of(timeout)
        options = {"input": None, "env": None, "cwd": None, "user": None, "text": True, **options}
        result: Result[Any] | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                result = yield from self._run(command, timeout=left, check=False, **options)
            except GuestTimeout as error:
                wanted = "succeed" if succeeds else "fail"
                raise GuestTimeout(
                    f"{_name(command)} was to {wanted}", timeout or 0.0, self._tail(), result or error.result
                ) from None
            if (result.status == 0) == succeeds:
                return result
            yield Until(lambda: self._life.ending, time.monotonic() + RETRY)


def _config(
    config: Config | str | os.PathLike[str] | None, keys: dict[str, Any]
) -> tuple[Config, str | None, bool]:
    """The whole configuration, the name if somebody chose one, whether it is the default guest."""
    default_kernel = False
    given: dict[str, Any]
    if isinstance(config, Config):
        made = config.replace(**keys) if keys else config
        given = {"name": made.name} if made.name != Config().name else keys
    else:
        given = {**(read_toml(os.fspath(config)) if config is not None else {}), **keys}
        if given.get("kernel") is None and given.get("firmware") is None:
            Config(**{**given, "kernel": "the default guest's"})  # what else is wrong is told first
            from pyvmm.images.default import default_guest

            default, default_kernel = default_guest(), True
            initrd = given.get("initrd", ())
            given["kernel"] = default.kernel
            given["initrd"] = [default.initrd, *([initrd] if isinstance(initrd, str) else initrd)]
        made = Config(**given)
    if made.exec is not None:
        raise ConfigError("exec: a pyvmm.Guest runs commands by its methods; leave exec out")
    if made.console not in ("stdio", "none"):
        raise ConfigError(
            f"console: {made.console!r}: a pyvmm.Guest has its console itself; leave console out"
        )
    return made, made.name if "name" in given else None, default_kernel


def _why_no_commands(config: Config, wanted: bool) -> str:
    """Why there can be no commands, or nothing."""
    if config.firmware is not None:
        return "this guest boots firmware, which runs no commands; use guest.console"
    if not wanted:
        return "this guest was made with commands=False and has its own init; use guest.console"
    from pyvmm.boot.x86 import multiboot, multiboot2

    try:
        with open(config.kernel or "", "rb") as file:
            head = memoryview(file.read(multiboot2.SEARCH))
    except OSError:
        return ""  # the machine says what is wrong with it
    if multiboot.find_header(head) is not None or multiboot2.find_header(head) is not None:
        return "this guest boots a multiboot kernel, which runs no commands; use guest.console"
    return ""


def _request(
    command: CommandLine, env: Mapping[str, str] | None, cwd: str | None, user: str | int | None
) -> Request:
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    return Request(argv, env=env, cwd=cwd, user=user)


def _name(command: CommandLine) -> str:
    """The command as a message has it."""
    words = command if isinstance(command, str) else shlex.join(os.fsdecode(word) for word in command)
    return words if len(words) <= 200 else f"{words[:197]}..."


def _how(result: Result[Any]) -> str:
    return f"ended by signal {result.signal}" if result.signal else f"status {result.status}"
