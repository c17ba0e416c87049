"""``Guest``: a virtual machine driven from Python."""

from __future__ import annotations

from typing import overload

from pyvmm.errors import ConfigError
from pyvmm.guest.command_waits import CommandWaits, name_of
from pyvmm.guest.console import GuestConsole
from pyvmm.guest.errors import CommandError
from pyvmm.guest.files import Files
from pyvmm.guest.life import Life
from pyvmm.guest.machines import OwnMachines, VmMachines
from pyvmm.guest.process import Process
from pyvmm.guest.settings import GuestSettings
from pyvmm.guest.vm_machine import VmMachine
from pyvmm.guest.watch import Watch, deadline_of
from pyvmm.sandbox.mode import ON, parse_mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal, Unpack

    from pyvmm.config import Config
    from pyvmm.config.keywords import ConfigKeywords
    from pyvmm.guest.command_waits import CommandLine
    from pyvmm.guest.result import Result
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.machine import Machine
    from pyvmm.virtio.device import VirtioDevice


class Guest:
    """A guest, and the ways to drive it. Its machines are in processes of their own, which are confined.

    :param config: a ``Config``, or the path of a board file, or nothing
    :param devices: virtio devices of your own; the machine closes them
    :param commands: False leaves the guest's own init in charge of a Linux kernel: no commands then
    :param in_process: whether the machine is in threads of this process, which nothing confines then; it is
        also with *devices*, and on a network ``switch:NAME``
    :param sandbox: ``on``: the machine's process gives up the host as far as it can; ``strict``: wholly, or
        there is no guest; ``off``
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
        in_process: bool = False,
        sandbox: str = ON,
        kvm_path: str = "/dev/kvm",
        **keys: Unpack[ConfigKeywords],
    ) -> None:
        settings = GuestSettings(config, keys, commands)
        mode = parse_mode(sandbox)
        self._watch = Watch()
        self.console = GuestConsole(self._watch, lambda: self._life.ending, lambda: self._life.tail())
        machines: OwnMachines | VmMachines
        if devices or in_process or settings.joins_a_switch:
            machines = OwnMachines(settings, self.console.backend, devices, kvm_path)
        else:
            machines = VmMachines(settings, self.console.backend, kvm_path, mode)
        self._life = Life(settings, self._watch, self.console.backend, machines)
        self._commands = CommandWaits(self._watch, self._life)
        self._files = Files(self._watch, self._life.ready, self._life.tail)

    # Life

    def __enter__(self) -> Guest:
        if not self._life.started:
            try:
                self.start()
            except BaseException:
                self.close()  # there will be no __exit__
                raise
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
        """The machine; after a reboot another one.

        Raises ConfigError where it is in a process of its own.
        """
        machine = self._life.machine
        if isinstance(machine, VmMachine):
            raise ConfigError(
                "machine: this guest's machine is in a process of its own; make pyvmm.Guest(in_process=True)"
            )
        return machine

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
        """Start the guest; from now on other processes reach it by its name.

        Raises StartError, and ConfigError for a name that another running guest has: start it again when that
        one has ended, or close it.
        """
        self._life.start()

    def close(self) -> None:
        """End the guest at once and release everything. Idempotent."""
        self._life.close()

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait for the guest's end. Raises GuestTimeout."""
        return self._watch.drive(self._life.ended(timeout))

    async def wait_async(self, timeout: float | None = None) -> Ending:
        """``wait``, awaited."""
        return await self._watch.drive_async(self._life.ended(timeout))

    def poweroff(self, timeout: float | None = None) -> Ending:
        """Have the guest shut down, by its init or by the power button, and wait for its end.

        Raises GuestTimeout when it has not ended in time; it continues then, and ``kill`` ends it.
        """
        if self._life.no_commands:
            self.power_button()
        else:
            commands = self._watch.drive(self._life.ready("poweroff", deadline_of(timeout), timeout))
            commands.power(reboot=False)
        return self.wait(timeout)

    def reboot(self, timeout: float | None = None) -> None:
        """Have the guest's init reboot, and wait until commands can be run again.

        The next machine is built like this one. Raises ConfigError for a guest with *devices* of its own,
        which went with the first machine; NoCommandsError, GuestTimeout, GuestEnded.
        """
        self._life.check_started("reboot")
        if not self._life.can_restart:
            raise ConfigError("reboot: this guest has devices of its own, which a second machine cannot have")
        deadline = deadline_of(timeout)
        boots = self._life.boots
        commands = self._watch.drive(self._life.ready("reboot", deadline, timeout))
        with self._watch.condition:
            self._life.reboot_wanted = True
        commands.power(reboot=True)
        self._watch.drive(self._life.ready("reboot", deadline, timeout, boots))

    def power_button(self) -> None:
        """Press the power button and do not wait."""
        self._life.check_started("power_button")
        self._life.machine.power_button()

    def kill(self) -> Ending:
        """End the guest at once, as a power failure would; how it ended."""
        self._life.check_started("kill")
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
        return self._watch.drive(
            self._commands.run(
                command, input=input, timeout=timeout, env=env, cwd=cwd, user=user, check=check, text=text
            )
        )

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
        return await self._watch.drive_async(
            self._commands.run(
                command, input=input, timeout=timeout, env=env, cwd=cwd, user=user, check=check, text=text
            )
        )

    def check(self, command: CommandLine, **options: Any) -> Result[Any]:
        """``run`` a command that must end with status 0. Raises CommandError."""
        return self.run(command, check=True, **options)

    def fails(self, command: CommandLine, **options: Any) -> Result[Any]:
        """``run`` a command that must not end with status 0. Raises CommandError."""
        result = self.run(command, **options)
        if not result.status:
            raise CommandError(f"{name_of(command)}: status 0, and it was to fail", result, self._life.tail())
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
        running = self._watch.drive(self._commands.start(command, env, cwd, user, timeout))
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
        self._watch.drive(self._life.ready("boot", deadline_of(timeout), timeout))

    def wait_until(self, command: CommandLine, timeout: float | None = None, **options: Any) -> Result[Any]:
        """Run *command* repeatedly until its status is 0; its last result.

        Raises GuestTimeout, and CommandError for more than 256 MiB of output.
        """
        return self._watch.drive(self._commands.repeat(command, timeout, options, succeeds=True))

    def wait_until_fails(
        self, command: CommandLine, timeout: float | None = None, **options: Any
    ) -> Result[Any]:
        """Run *command* repeatedly until its status is not 0; its last result.

        Raises GuestTimeout, and CommandError for more than 256 MiB of output.
        """
        return self._watch.drive(self._commands.repeat(command, timeout, options, succeeds=False))

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
        self._watch.drive(self._commands.listening(port, timeout))
