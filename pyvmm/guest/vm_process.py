"""The VM process of a guest that a Python program drives: one machine, built, run and told of."""

from __future__ import annotations

import logging
import os
import socket

from pyvmm import host
from pyvmm.errors import PyvmmError, StartError
from pyvmm.guest import vm_messages as messages
from pyvmm.loop import Loop
from pyvmm.machine.confinement import Confinement
from pyvmm.machine.ending import FATAL, STOPPED, TOLD, UNKNOWN, Ending
from pyvmm.machine.machine import Machine
from pyvmm.sandbox.link import MessageLink
from pyvmm.sandbox.mode import OFF, lacking_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.guest.exec_devices import ExecDevices
    from pyvmm.guest.exec_socket import ExecSocket
    from pyvmm.guest.vm_messages import Setup
    from pyvmm.machine.host_side import HostSide
    from pyvmm.sandbox.leftovers import Leftovers
    from pyvmm.sandbox.vm_process import Parent

#: What reports and the channel for commands make it import, besides what a machine does.
LATER = ("logging", "pyvmm.guest.exec_devices", "pyvmm.guest.exec_socket")
#: Seconds that a message waits for a program that takes none.
_PATIENCE = 5.0
#: Bytes of the console's text in a message.
_PART = 4000


class MachineProcess:
    """One machine, in this process.

    :param link: the program's
    :param exec_fd: its stream for commands; -1: there is none
    :param left: seconds that the guest has left; None: it has no limit
    :param first: whether it is the guest's first machine
    """

    def __init__(
        self,
        setup: Setup,
        host_side: HostSide,
        leftovers: Leftovers,
        parent: Parent,
        link: MessageLink,
        exec_fd: int,
        left: float | None,
        first: bool,
    ) -> None:
        self._setup = setup
        self._host_side = host_side
        self._leftovers = leftovers
        self._parent = parent
        self._link = link
        self._exec_fd = exec_fd
        self._left = left
        self._first = first
        self._confinement: Confinement | None = None
        self._machine: Machine
        self._commands: ExecSocket | None = None

    def run(self) -> None:
        """Run the machine to its end, and tell the program."""
        host.before_first_report = self._report_by_messages
        try:
            with Loop() as loop:
                self._run(loop)
        except Exception as error:
            name, text = type(error).__name__, str(error)
            if not isinstance(error, PyvmmError):
                name, text = StartError.__name__, f"the guest's process: {error!r}"
            self._send(messages.FAILED + messages.fields(f"{type(error).__module__}.{name}", text))

    def _run(self, loop: Loop) -> None:
        setup, host_side = self._setup, self._host_side
        self._leftovers.give(host_side.objects)
        devices = host_side.devices()
        if setup.sandbox != OFF:
            largest = self._leftovers.largest_file
            self._confinement = Confinement(
                setup.config, host_side, devices, setup.commands, largest, setup.kvm_path
            )
            self._confinement.enter(LATER)
            self._parent.end_with_it()  # which a change of user undoes
        channel = self._channel(loop) if setup.commands else None
        with Machine(
            setup.config.replace(timeout=self._left),
            loop=loop,
            console=host_side.console,
            made=devices,
            channel=channel.serial if channel is not None else None,
            devices=[channel.device] if channel is not None else [],
            console_shell=setup.console_shell,
            host_objects=host_side.objects,
            kvm_path=setup.kvm_path,
        ) as machine:
            self._machine = machine
            machine.at_start(self._seal)
            self._send(messages.BUILT)
            if not self._starts():
                return
            self._link.serve(loop, self._received)
            ending = machine.run()
        if self._commands is not None:
            self._commands.stream.flush(_PATIENCE)
        if ending.reason == "reboot":
            self._leftovers.write(host_side.objects, self._parent.link)
        else:
            host_side.drain()
            host_side.close_copy()
        self._tell_log()
        self._send(
            messages.ENDED + messages.fields(str(ending.code), ending.reason, ending.known, ending.detail)
        )

    def _channel(self, loop: Loop) -> ExecDevices:
        from pyvmm.guest.exec_devices import ExecDevices
        from pyvmm.guest.exec_socket import ExecBridge, ExecSocket

        devices = ExecDevices()
        self._commands = ExecSocket(loop, socket.socket(fileno=self._exec_fd))
        ExecBridge(devices.link, self._commands)
        return devices

    def _seal(self) -> None:
        if self._confinement is not None:
            self._confinement.seal()
            line = lacking_line(self._setup.sandbox, self._confinement.lacking)
            if line is not None and self._first:
                self._report(logging.WARNING, "pyvmm.guest", line)
        self._send(messages.STARTED)

    def _starts(self) -> bool:
        """Wait for START; False when the program wants no start any more."""
        while True:
            self._link.wait(-1)
            found = self._link.receive()
            if found is None:
                continue
            if found[0] == messages.START:
                return True
            if not found[0] or found[0][:1] == messages.STOP:
                return False
            self._received(*found)

    # In the loop's thread, or before the start

    def _received(self, message: bytes, fd: int) -> None:
        kind, machine = message[:1], self._machine
        if fd >= 0:
            os.close(fd)
        if kind == messages.PAUSE:
            machine.pause()
            self._send(messages.DONE)
        elif kind == messages.RESUME:
            machine.resume()
            self._send(messages.DONE)
        elif kind == messages.BUTTON:
            machine.power_button()
        elif kind == messages.LOG:
            self._tell_log()
        elif kind == messages.STOP:
            reason, _, detail = message[1:].decode().partition(messages.SEPARATOR)
            machine.end(Ending(STOPPED, reason, TOLD, detail))
        elif not kind:  # the program is gone, and the parent about to kill this process
            machine.end(Ending(FATAL, "internal", UNKNOWN, "the program has ended"))

    def _tell_log(self) -> None:
        data = self._machine.log.text().encode()
        for at in range(0, len(data), _PART):
            self._send(messages.LOGGED + data[at : at + _PART])
        self._send(messages.LOGGED)

    def _send(self, message: bytes) -> None:
        if not self._link.send(message):
            self._link.wait(_PATIENCE, to_send=True)
            self._link.send(message)

    # Reports

    def _report_by_messages(self) -> None:
        logging.getLogger().addHandler(_MessageHandler(self._report))
        logging.getLogger("pyvmm").setLevel(logging.INFO)

    def _report(self, level: int, name: str, text: str) -> None:
        self._link.send(messages.REPORT + messages.fields(str(level), name, text))


class _MessageHandler(logging.Handler):
    """Gives each record's level, its logger's name and its text to *report*."""

    def __init__(self, report: object) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report(record.levelno, record.name, record.getMessage())  # type: ignore[operator]
