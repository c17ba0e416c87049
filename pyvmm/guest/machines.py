"""Where a guest's machines are: in this process, or each in a VM process of its own."""

from __future__ import annotations

import socket

from pyvmm.guest.console_socket import ConsoleSocket
from pyvmm.guest.exec_socket import ExecSocket
from pyvmm.guest.spawned_parent import SpawnedParent
from pyvmm.guest.vm_machine import VmMachine
from pyvmm.guest.vm_messages import Setup
from pyvmm.machine.console_log import ConsoleLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.backends.base import Detached
    from pyvmm.config import Config
    from pyvmm.exec.channel import ExecLink
    from pyvmm.guest.settings import GuestSettings
    from pyvmm.loop import Loop
    from pyvmm.machine.machine import Machine
    from pyvmm.virtio.device import VirtioDevice


class OwnMachines:
    """Machines in this process.

    :param console: the backend of the first serial port, of every machine
    :param devices: virtio devices besides the config's; with them there can be no second machine
    """

    def __init__(
        self, settings: GuestSettings, console: Detached, devices: Sequence[VirtioDevice], kvm_path: str
    ) -> None:
        from pyvmm.backends.host_objects import HostObjects

        self._settings = settings
        self._console = console
        self._devices = tuple(devices)
        self._kvm_path = kvm_path
        self._host_objects = HostObjects()

    @property
    def can_restart(self) -> bool:
        """Whether a second machine can be built like the first."""
        return not self._devices

    def build(self, config: Config, loop: Loop) -> tuple[ExecLink | None, Machine]:
        """The next machine, and the way to its server for commands. Raises ConfigError, StartError."""
        from pyvmm.machine.machine import Machine

        channel = None
        if not self._settings.no_commands:
            from pyvmm.guest.exec_devices import ExecDevices

            channel = ExecDevices()
        machine = Machine(
            config,
            loop=loop,
            console=self._console,
            channel=channel.serial if channel is not None else None,
            console_shell=self._settings.console_shell,
            devices=[*self._devices, *([channel.device] if channel is not None else [])],
            host_objects=self._host_objects,
            kvm_path=self._kvm_path,
        )
        return channel.link if channel is not None else None, machine

    def ended(self) -> None:
        """A machine has ended."""

    def close(self) -> None:
        """After the last machine. Idempotent."""
        self._host_objects.close()


class VmMachines:
    """Machines in VM processes.

    :param console: what the first serial port of every machine is connected to
    :param sandbox: one of ``sandbox.mode.MODES``
    """

    can_restart = True

    def __init__(self, settings: GuestSettings, console: Detached, kvm_path: str, sandbox: str) -> None:
        commands = self._commands = not settings.no_commands
        self._console = console
        self._setup = Setup(settings.config, commands, settings.console_shell, kvm_path, sandbox)
        self._parent: SpawnedParent | None = None
        self._stream: ExecSocket | None = None
        self._terminal: ConsoleSocket | None = None
        self._log = ConsoleLog(lambda: None)  # of the machine of now

    def build(self, config: Config, loop: Loop) -> tuple[ExecSocket | None, VmMachine]:
        """As for ``OwnMachines``. Of *config*, ``timeout`` is looked at; the rest is as it was first."""
        if self._parent is None:
            self._parent = SpawnedParent(self._setup)
            self._terminal = ConsoleSocket(loop, self._console, self._parent.console)
        self._console.forget(self._log.feed)
        log = self._log = ConsoleLog(lambda: None)
        self._console.observe(log.feed)
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if not self._commands:
            return None, VmMachine(self._parent, loop, -1, config.timeout, log)
        ours, theirs = socket.socketpair()
        stream = self._stream = ExecSocket(loop, ours)
        with theirs:
            return stream, VmMachine(self._parent, loop, theirs.fileno(), config.timeout, log)

    def ended(self) -> None:
        """A machine has ended: take what it has sent since the loop's last turn."""
        if self._stream is not None:
            self._stream.stream.drain()
        if self._terminal is not None:
            self._terminal.drain()

    def close(self) -> None:
        """After the last machine. Idempotent."""
        if self._stream is not None:
            self._stream.close()
        if self._parent is not None:
            self._parent.close()
