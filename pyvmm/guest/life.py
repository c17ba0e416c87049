"""A guest's machines, one after the other: built, started, watched to the end, after a reboot built anew."""

from __future__ import annotations

import os
import time
from threading import Thread

from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.guest.commands import Commands
from pyvmm.guest.control import ControlServer, Target
from pyvmm.guest.control_listener import ControlListener
from pyvmm.guest.errors import GuestEnded, GuestTimeout, NoCommandsError
from pyvmm.guest.registry import RegistryError, check_free, claim
from pyvmm.guest.watch import Until, deadline_of
from pyvmm.host.notice import notice
from pyvmm.loop import Loop
from pyvmm.machine.ending import FATAL, TOLD, UNKNOWN, Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.base import Detached
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.guest.machines import OwnMachines, VmMachines
    from pyvmm.guest.registry import Claim
    from pyvmm.guest.settings import GuestSettings
    from pyvmm.guest.vm_machine import VmMachine
    from pyvmm.guest.watch import Waits, Watch
    from pyvmm.machine.machine import Machine


class Life:
    """Runs a guest in threads of its own until it ends for good.

    :param console: the backend of the first serial port, of every machine
    :param machines: builds them
    """

    def __init__(
        self, settings: GuestSettings, watch: Watch, console: Detached, machines: OwnMachines | VmMachines
    ) -> None:
        config = self.config = settings.config
        #: Why there are no commands; empty: there are.
        self.no_commands = settings.no_commands
        #: How it ended for good; None while it runs. Set before the watch is told.
        self.ending: Ending | None = None
        #: How many machines have been started.
        self.boots = 0
        #: Whether the next reboot of the guest is to be followed by a new machine.
        self.reboot_wanted = config.on_reboot == "restart"
        self.commands: Commands | None = None
        self.started = False
        self._watch = watch
        self._console = console
        self._machines = machines
        self._deadline: float | None = None
        self._closing = False
        self._thread: Thread | None = None
        self._control: ControlServer | None = None
        self._listener: ControlListener | None = None
        #: What the guest is called, and from the start on what other processes reach it by.
        self.name = config.name
        self._chosen_name = settings.name
        if settings.name is not None:
            _check_free(settings.name)
        #: The event loop of all machines.
        self.loop = Loop()
        try:
            self.machine = self._build(config)
        except BaseException:
            machines.close()
            self.loop.close()
            raise

    @property
    def can_restart(self) -> bool:
        """Whether a second machine can be built like the first."""
        return self._machines.can_restart

    def start(self) -> None:
        """Start the first machine; from now on the guest has its name.

        Raises NameTakenError, StartError; PyvmmError for a guest that was started before.
        """
        if self.started or self.ending is not None:
            raise PyvmmError("a guest is started once; make another pyvmm.Guest")
        own = _claimed(self._chosen_name) if self._chosen_name is not None else None
        if self.config.timeout is not None:
            self._deadline = time.monotonic() + self.config.timeout
        try:
            self.machine.start()
        except BaseException:
            if own is not None:
                own.close()
            raise
        self.boots = 1
        self.started = True
        if self._chosen_name is None:
            own = _free_name()
        if own is not None:
            self._serve_control(own)
        self._thread = Thread(target=self._watch_over, name=f"pyvmm {self.config.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the guest and release everything. Idempotent."""
        with self._watch.condition:
            self._closing = True
            machine = self.machine
        machine.stop()
        if self._thread is not None:
            self._thread.join()
        machine.close()
        if self.ending is None:
            self._end(machine.ending)

    def tail(self) -> str:
        """The last output of the consoles of the machine of now, for messages."""
        return self.machine.log.text()

    def check_started(self, what: str) -> None:
        """Raise ConfigError, which names *what*, before the start."""
        if not self.started:
            raise ConfigError(f"{what}: the guest is not started; use `with`, or call start() first")

    # Waits

    def ended(self, timeout: float | None) -> Waits[Ending]:
        """Wait for the end. Raises GuestTimeout, ConfigError."""
        self.check_started("wait")
        ending = yield Until(lambda: self.ending, deadline_of(timeout))
        if not ending:
            raise GuestTimeout("the guest was to end", timeout or 0.0, self.tail())
        return ending  # type: ignore[no-any-return]

    def ready(
        self, what: str, deadline: float | None, timeout: float | None, boots: int = 0
    ) -> Waits[Commands]:
        """Wait until the machine after the first *boots* ones runs commands.

        *what* is for messages, as is *timeout*, which *deadline* was made of. Raises GuestTimeout,
        GuestEnded, NoCommandsError, ConfigError.
        """
        self.check_started(what)
        if self.no_commands:
            raise NoCommandsError(f"{what}: {self.no_commands}")

        def ready() -> object:
            commands = self.commands
            if self.boots > boots and commands is not None and (commands.ready or commands.error):
                return commands
            return self.ending

        answer = yield Until(ready, deadline)
        if not answer:
            raise GuestTimeout(f"{what}: the guest's init was to answer", timeout or 0.0, self.tail())
        if answer is self.ending:
            raise GuestEnded(what, answer, self.tail())
        if answer.error is not None:
            raise answer.error
        return answer  # type: ignore[no-any-return]

    # Inside

    def _serve_control(self, claim: Claim) -> None:
        self.name = claim.name
        target = Target(
            claim.name,
            os.getpid(),
            self.config,
            lambda: self.machine,
            self._client,
            lambda: self._console,
        )
        server = self._control = ControlServer(self.loop, target)
        listener = self._listener = ControlListener(
            self.loop, claim, lambda connection: server.serve(os.dup(connection.fileno()))
        )
        self.loop.call_soon(listener.listen)

    def _client(self) -> ExecClient | str:
        commands = self.commands
        if commands is None:
            return self.no_commands
        return str(commands.error) if commands.error is not None else commands.client

    def _build(self, config: Config) -> Machine | VmMachine:
        link, machine = self._machines.build(config, self.loop)
        self.commands = None
        if link is not None:
            self.commands = Commands(self._watch, self.loop, link)
            self.commands.connect()
        return machine

    def _watch_over(self) -> None:
        ending: Ending | None = None
        try:
            ending = self._ended()
            while self._goes_on(ending):
                self._again()
                ending = self._ended()
        except PyvmmError as error:
            ending = Ending(error.exit_code, "restart", TOLD, f"the next machine did not start: {error}")
        except BaseException as error:  # nothing may vanish with the thread
            ending = Ending(FATAL, "internal", UNKNOWN, f"the guest's thread: {error!r}")
        finally:
            self._end(ending)

    def _ended(self) -> Ending:
        ending = self.machine.wait()
        self._machines.ended()
        return ending

    def _goes_on(self, ending: Ending) -> bool:
        """Whether another machine follows. Those who wait for a command of this one are told."""
        if self.commands is not None:
            self.commands.end(ending)
        with self._watch.condition:
            if ending.reason != "reboot" or not self.reboot_wanted or self._closing:
                return False
            self.reboot_wanted = self.config.on_reboot == "restart"
        self._watch.changed()
        return True

    def _again(self) -> None:
        if not self.can_restart:
            raise ConfigError("its devices went with the first one; make another pyvmm.Guest")
        config = self.config
        if self._deadline is not None:
            config = config.replace(timeout=max(0.001, self._deadline - time.monotonic()))
        machine = self._build(config)
        machine.start()
        with self._watch.condition:
            self.machine = machine
            self.boots += 1
            if self._closing:
                machine.stop()
        self._watch.changed()

    def _end(self, ending: Ending | None) -> None:
        try:
            if self._listener is not None:
                self._listener.close()
            if self._control is not None:
                self._control.close(ending)
            try:
                self._machines.close()
            finally:
                self.loop.close()
        finally:  # whoever waits is told, come what may
            with self._watch.condition:
                self.ending = ending
            self._watch.changed()


def _check_free(name: str) -> None:
    """Raise NameTakenError before anything is built when a running guest has *name*. Raises ConfigError."""
    try:
        check_free(name)
    except RegistryError:
        pass  # the start reports it


def _claimed(name: str) -> Claim | None:
    """The name that the user has chosen; None, reported, where there can be no socket.

    Raises NameTakenError, ConfigError.
    """
    try:
        return claim(name)
    except RegistryError as error:
        notice("claim", f"no other process can reach guest {name!r}: {error}")
        return None


def _free_name() -> Claim | None:
    """A name for a guest whose user has chosen none; None where there can be no socket."""
    try:
        return claim(None)
    except RegistryError:
        return None
