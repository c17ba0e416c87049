"""A guest's machines, one after the other: built, started, watched to the end, after a reboot built anew."""

from __future__ import annotations

import time
from threading import Thread

from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.guest.commands import Commands
from pyvmm.guest.control import ControlServer, Target
from pyvmm.guest.registry import RegistryError, claim
from pyvmm.host.notice import notice
from pyvmm.loop import Loop
from pyvmm.machine.ending import FATAL, TOLD, UNKNOWN, Ending
from pyvmm.machine.machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.backends.base import Detached
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.guest.registry import Claim
    from pyvmm.guest.watch import Watch
    from pyvmm.virtio.device import VirtioDevice


class Life:
    """Runs *config* in threads of its own until it ends for good.

    :param name: what other processes reach it by; None: ``config.name`` is not the user's choice, and a free
        one is taken at the start
    :param console: the backend of the first serial port, of every machine
    :param devices: virtio devices besides the config's; with them there can be no second machine
    :param shell: whether this init gives a shell on the console
    :param no_commands: why the guest is not given the init that runs commands; empty: it is
    """

    def __init__(
        self,
        config: Config,
        name: str | None,
        watch: Watch,
        console: Detached,
        devices: Sequence[VirtioDevice],
        no_commands: str,
        shell: bool,
        kvm_path: str,
    ) -> None:
        self.config = config
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
        self._devices = tuple(devices)
        self._no_commands = no_commands
        self._shell = shell
        self._kvm_path = kvm_path
        self._deadline: float | None = None
        self._closing = False
        self._thread: Thread | None = None
        self._control: ControlServer | None = None
        self._named = name is not None
        self._claim = _claimed(name) if name is not None else None
        #: The event loop of all machines.
        self.loop = Loop()
        try:
            self.machine = self._build(config)
        except BaseException:
            self._give_back(None)
            raise

    @property
    def name(self) -> str:
        """What other processes reach it by."""
        return self._claim.name if self._claim is not None else self.config.name

    @property
    def can_restart(self) -> bool:
        """Whether a second machine can be built like the first."""
        return not self._devices

    def start(self) -> None:
        """Start the first machine. Raises PyvmmError: StartError, or what building it raises."""
        if self.started or self.ending is not None:
            raise PyvmmError("a guest is started once; make another pyvmm.Guest")
        if self.config.timeout is not None:
            self._deadline = time.monotonic() + self.config.timeout
        self.machine.start()
        self.boots = 1
        self.started = True
        self._serve_control()
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

    def _serve_control(self) -> None:
        if self._claim is None:
            if self._named:
                return  # there is no place for sockets, as was reported
            try:
                self._claim = claim(None)
            except RegistryError:
                return  # nobody asked for a name; the guest is as good without
        target = Target(
            self._claim.name, self.config, lambda: self.machine, self._client, lambda: self._console
        )
        server = self._control = ControlServer(self.loop, self._claim, target)
        self.loop.call_soon(server.listen)

    def _client(self) -> ExecClient | str:
        commands = self.commands
        if commands is None:
            return self._no_commands
        return str(commands.error) if commands.error is not None else commands.client

    def _build(self, config: Config) -> Machine:
        commands = Commands(self._watch, self.loop) if not self._no_commands else None
        machine = Machine(
            config,
            loop=self.loop,
            console=self._console,
            channel=commands.serial if commands is not None else None,
            console_shell=self._shell,
            devices=[*self._devices, *([commands.device] if commands is not None else [])],
            kvm_path=self._kvm_path,
        )
        if commands is not None:
            commands.connect()
        self.commands = commands
        return machine

    def _watch_over(self) -> None:
        ending: Ending | None = None
        try:
            ending = self.machine.wait()
            while self._goes_on(ending):
                self._again()
                ending = self.machine.wait()
        except PyvmmError as error:
            ending = Ending(error.exit_code, "restart", TOLD, f"the next machine did not start: {error}")
        except BaseException as error:  # nothing may vanish with the thread
            ending = Ending(FATAL, "internal", UNKNOWN, f"the guest's thread: {error!r}")
        finally:
            self._end(ending)

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
        self._give_back(ending)
        with self._watch.condition:
            self.ending = ending
        self._watch.changed()

    def _give_back(self, ending: Ending | None) -> None:
        if self._control is not None:
            self._control.close(ending)
        elif self._claim is not None:
            self._claim.close()
        self.loop.close()


def _claimed(name: str) -> Claim | None:
    """The name that the user has chosen; None, reported, where there can be no socket.

    Raises NameTakenError, ConfigError.
    """
    try:
        return claim(name)
    except RegistryError as error:
        notice("claim", f"no other process can reach guest {name!r}: {error}")
        return None
