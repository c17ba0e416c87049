"""``pyvmm run``: boot a guest."""

from __future__ import annotations

import os

from pyvmm import host
from pyvmm.backends.spec import make_backend
from pyvmm.cli.interrupt import Interruptible
from pyvmm.cli.job import JobControl
from pyvmm.cli.late_close import GRACE, close_in_child
from pyvmm.cli.messages import announce, message, warn_of_kernel
from pyvmm.cli.options import Option, OptionParser
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.config.keys import DEFAULT_KERNEL, GROUPS, KEYS, RUN
from pyvmm.errors import ConfigError
from pyvmm.loop import Loop
from pyvmm.machine.ending import FATAL, GUEST_FIRST, OK, STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.pykvm import Kvm
from pyvmm.signals import ENDING, SIGWINCH, SignalFd, heard, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.base import CharBackend
    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.backends.terminal import Terminal
    from pyvmm.cli.served import Served
    from pyvmm.virtio.console.port import Port

#: Seconds after which other processes can reach a guest that has started: many end sooner.
CONTROL_DELAY = 0.25

OPTIONS = OptionParser(
    "pyvmm run [BOARD.toml] [OPTION ...]",
    "Boots a guest. Without --kernel, --firmware or a board file it is Debian's stock kernel with a\n"
    "small user space, fetched once; where Debian's packages are not to be had, this host's kernel. Flags\n"
    "win over the board file's keys. Ctrl-A x ends a guest on the terminal, Ctrl-A h tells more.",
    [
        *sorted((*KEYS.values(), *DEVICE_KINDS.values()), key=lambda option: GROUPS.index(option.group)),
        Option("result", "FILE", "write how the guest ended to FILE, as JSON", group=RUN),
        Option(
            "untrusted",
            "",
            "the board file is somebody else's: it names a kernel, files in its folder and sizes alone",
            group=RUN,
        ),
    ],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm run`` with the arguments after the verb; returns the exit code.

    Raises PyvmmError, ConfigError.
    """
    values, arguments = OPTIONS.parse(argv)
    given = values.pop("result", None)
    result = None if given is None else str(given)
    config, named, ours = _config(values, arguments)
    if config.trace_device:
        from pyvmm.cli.report_handler import show_trace

        show_trace()
    elif any(device.kind == "device" for device in config.devices):
        from pyvmm.cli.report_handler import install

        install()  # before its module is loaded, which may use ``logging``
    if any(device.kind == "net" for device in config.devices):
        from pyvmm.cli.switches import warn_of_lonely_cards

        warn_of_lonely_cards(config.devices)
    if result is not None:
        from pyvmm.cli import result as result_file

        result_file.prepare(result)
    if config.exec is not None:
        from pyvmm.cli.exec import run_exec

        status, ending = run_exec(config, named, ours, CONTROL_DELAY)
    else:
        status, ending = None, GuestRun(config, named, ours).until_end()
    if result is not None:
        result_file.write(result, ending, status)
    if status is not None:
        return status
    if ending.code != OK and not GUEST_FIRST <= ending.code < FATAL:
        message(str(ending))
    return ending.code


class GuestRun:
    """One ``pyvmm run``, over all the guest's restarts.

    The signals of ``signals.ENDING``, --timeout and Ctrl-A x end it with code 3. The signals are blocked
    from before the first machine is built, so that none comes while it is half built and the terminal is raw.

    :param named: whether the guest's name is the user's choice
    :param ours: whether its user space is ours, which runs commands for ``pyvmm exec``
    """

    def __init__(self, config: Config, named: bool, ours: bool) -> None:
        self._config = config
        self._named = named
        self._ours = ours
        self._served: Served | None = None
        self._machine: Machine | None = None
        self._console: CharBackend | None = None
        self._over: Ending | None = None
        self._host_objects: HostObjects | None = None  # where another machine may follow
        if config.devices and config.on_reboot == "restart":
            from pyvmm.backends.host_objects import HostObjects

            self._host_objects = HostObjects()
        self._left = config.timeout  # seconds that the guest has left

    def until_end(self) -> Ending:
        """Run the guest in this thread, again after a reboot where that is asked for."""
        with Loop() as loop, SignalFd(loop, self._handlers()):
            if self._named or self._ours:
                self._make_served(loop)
            loop.call_later(CONTROL_DELAY, lambda: self._serve(loop))
            ending = None
            self._console = make_backend(self._config.console, on_quit=self._quit)
            try:
                self._console.open()
                ending = self._boots(loop)
                return ending
            finally:
                try:
                    if self._host_objects is not None:
                        self._host_objects.close()
                finally:
                    self._console.close()
                    if self._served is not None:
                        self._served.close(ending)

    def _boots(self, loop: Loop) -> Ending:
        while True:
            ending = self._once(loop)
            if ending.reason != "reboot" or self._config.on_reboot != "restart":
                return ending
            loop.run_once(0)  # also for a guest that is faster than the loop
            if self._over is not None:
                return self._over

    def _make_served(self, loop: Loop) -> Served:
        from pyvmm.cli.served import Served

        self._served = Served(loop, self._config, self._named)
        return self._served

    def _serve(self, loop: Loop) -> None:
        """The guest has started: other processes may reach it."""
        served = self._served or self._make_served(loop)
        assert self._machine is not None and self._console is not None, (
            "the loop runs after a machine is built"
        )
        served.uses(self._machine, self._console)
        served.serve()

    def _once(self, loop: Loop) -> Ending:
        began = loop.clock()
        console = self._console
        assert console is not None, "until_end makes it"
        exec_channel = self._served.channel() if self._ours and self._served is not None else {}
        with Machine(
            self._config.replace(timeout=None),
            loop=loop,
            console=console,
            host_objects=self._host_objects,
            **exec_channel,
        ) as machine:
            if self._machine is None:
                announce(self._config, console, _ports(machine), warn=not self._ours)
            self._machine = machine
            if self._served is not None:
                self._served.uses(machine, console)
            made = loop.clock()
            if self._left is not None:
                machine.clock.call_later(max(self._left - (made - began), 0), self._timed_out)
            machine.at_end(lambda: self._leave(machine, loop.clock() - made))
            ending = machine.run()
            if self._left is not None:
                self._left -= machine.clock.clock() - began
        if machine.error is not None and os.environ.get("PYVMM_DEBUG"):
            raise machine.error
        return ending

    def _leave(self, machine: Machine, age: float) -> None:
        """The guest has ended *age* seconds after it was made; nothing of it is closed yet."""
        if age < GRACE and self._config.on_reboot != "restart":
            close_in_child(machine.vm)

    def _handlers(self) -> dict[int, Callable[[int], object]]:
        handlers = JobControl(lambda: self._machine, self._terminal).handlers()
        if self._config.uses_stdio:
            handlers[SIGWINCH] = self._resized
        return {**dict.fromkeys(heard(*ENDING), self._signalled), **handlers}

    def _terminal(self) -> Terminal | None:
        if not self._config.uses_stdio:
            return None
        from pyvmm.backends.terminal import Terminal

        ports = _ports(self._machine) if self._machine is not None else []
        backends = [self._console, *(port.backend for port in ports)]
        return next(backend for backend in backends if isinstance(backend, Terminal))

    def _resized(self, number: int) -> None:
        if self._machine is not None:
            for console in self._machine.consoles:
                console.resized()

    def _end(self, reason: str, detail: str) -> None:
        self._over = Ending(STOPPED, reason, TOLD, detail)
        assert self._machine is not None, "the loop runs after a machine is built"
        self._machine.end(self._over)

    def _signalled(self, number: int) -> None:
        self._end("stopped", f"ended by {name_of(number)}")

    def _timed_out(self) -> None:
        self._end("timeout", f"the guest did not end within {self._config.timeout:g} seconds")

    def _quit(self) -> None:
        self._end("stopped", "ended by the user")


def _ports(machine: Machine) -> list[Port]:
    return [port for console in machine.consoles for port in console.ports]


def _config(values: dict[str, Any], arguments: list[str]) -> tuple[Config, bool, bool]:
    """What was asked for; whether the guest's name was; whether its user space is ours.

    If it is, what this host's KVM cannot do is told here, before the default guest is fetched. Raises
    ConfigError, KvmError, StartError, ImageError.
    """
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]!r} is one word too many: give at most one board file")
    untrusted = bool(values.pop("untrusted", False))
    if untrusted and not arguments:
        raise ConfigError("--untrusted is about a board file, and none is given; leave it out")
    for name, value in values.items():
        key = KEYS.get(name)
        if key is not None and key.parse is not None:
            values[name] = key.parse(key.name, value)
    keys = values
    if arguments:
        from pyvmm.config.toml import read_toml

        keys = {**read_toml(arguments[0], untrusted), **values}
    named = "name" in keys
    firmware = keys.get("firmware") is not None
    default = keys.get("kernel") is None and not firmware
    # What else is wrong is reported before a guest is fetched.
    config = Config(**{**keys, "kernel": DEFAULT_KERNEL} if default else keys)
    if firmware:
        return config, named, False
    from pyvmm.machine.boot_files import needs_boot_files, with_boot_files, with_guest

    if not default and not needs_boot_files(config):
        return config, named, False
    host.before_first_report = _show_progress
    if default:
        from pyvmm.images.default_or_host import default_or_host_guest

        Kvm().close()
        warn_of_kernel()
        with Interruptible():
            return with_guest(config, default_or_host_guest()), named, True
    with Interruptible():
        config = with_boot_files(config)
    Kvm().close()
    warn_of_kernel()
    return config, named, True


def _show_progress() -> None:
    from pyvmm.cli.report_handler import show_progress  # loads ``logging``; most guests are in the cache

    show_progress()
