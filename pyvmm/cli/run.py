"""``pyvmm run``: boot a guest."""

from __future__ import annotations

import os

from pyvmm.backends.spec import make_backend
from pyvmm.cli.handover import GRACE, hand_over
from pyvmm.cli.manners import Interruptible, announce, complain
from pyvmm.cli.options import Option, Options
from pyvmm.config import Config, read_toml
from pyvmm.errors import ConfigError
from pyvmm.loop import Loop
from pyvmm.machine.ending import GUEST_FIRST, OK, STOPPED, TOLD, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import NAMES, SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH, SignalFd, heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.base import CharBackend
    from pyvmm.backends.terminal import Terminal
    from pyvmm.virtio.console.port import Port

OPTIONS = Options(
    "pyvmm run [BOARD.toml] [OPTION ...]",
    "Boots a guest. Without --kernel, --firmware or a board file it is Debian's stock kernel with a\n"
    "small user space, fetched once. Flags win over the board file's keys. Ctrl-A x ends a guest on\n"
    "the terminal, Ctrl-A h tells more.",
    [
        Option("kernel", "FILE", "a kernel: bzImage, ELF vmlinux, multiboot"),
        Option("initrd", "FILE", "an initial RAM disk; several are concatenated", many=True),
        Option("cmdline", "TEXT", "the kernel command line [console=CONSOLE panic=-1; on x86 also pci=off]"),
        Option("firmware", "FILE", "a ROM that ends at 4 GiB, or an ELF, instead of a kernel"),
        Option("memory", "SIZE", "guest RAM [256M]"),
        Option("cpus", "N", "1 to 254 virtual CPUs [1]"),
        Option("cpu", "MODEL", "host, with CPUID features masked (host,-cx16) or insisted on (host,+avx2)"),
        Option("console", "WHERE", "the serial console: stdio, pty, socket:PATH, file:PATH, none [stdio]"),
        Option("boot", "WAY", "auto, bzimage, elf, pvh, linux64, multiboot, multiboot2 [auto]"),
        Option(
            "hvc",
            "WHERE,...",
            "a virtio console port: WHERE[,name=NAME][,port]; as --console, pipe:PATH",
            many=True,
        ),
        Option("disk", "PATH,...", "a disk image: PATH[,ro][,snapshot][,serial=TEXT]", many=True),
        Option("net", "TYPE[,..]", "a network card: user, tap, switch:NAME, link:PATH", many=True),
        Option("rng", "", "a virtio entropy device"),
        Option("vsock", "CID,path=SOCKET", "guest sockets, by UNIX sockets SOCKET and SOCKET_PORT"),
        Option("balloon", "[WORD,...]", "a balloon: target=SIZE, deflate-on-oom, stats=5s, reporting"),
        Option("share", "DIR[:TAG][,ro]", "a directory, for: mount -t virtiofs TAG PLACE", many=True),
        Option("vhost-user", "SOCKET,type=KIND", "a device that another process serves", many=True),
        Option("device", "CLASS,...", "a device of your own: FILE.py:Class,argument=value,...", many=True),
        Option("trace-device", "NAME[=FILE]", "what passes between a device and its driver", many=True),
        Option("inject", "NAME:FAULT,...", "faults for the driver: drop-kick=0.01, delay=5ms", many=True),
        Option("record", "NAME=FILE", "record a device's queue traffic, for pyvmm replay", many=True),
        Option("dtb", "FILE", "arm64: a device tree instead of the machine's own"),
        Option("dtb-overlay", "FILE", "arm64: an overlay for the device tree", many=True),
        Option("ram-base", "ADDRESS", "arm64: where RAM begins [0x40000000]"),
        Option("firmware-base", "ADDRESS", "arm64: where flat firmware goes; below RAM it is a ROM [0]"),
        Option(
            "uart", "KIND,...", "arm64: pl011 or 16550, with base=, irq=, shift= [pl011,base=0x9000000,irq=1]"
        ),
        Option("gic", "VERSION", "arm64: 2, 3 or auto [auto]"),
        Option("exec", "CMD", "run CMD in the guest with this stdin, stdout and stderr; its status is ours"),
        Option("timeout", "TIME", "stop the guest after this long (30s, 5m), with code 3"),
        Option("on-reboot", "WHAT", "exit or restart when the guest reboots [exit]"),
        Option("debug-exit", "PORT", "where a byte v written ends with code 32 + (v & 31) [0x501]; none"),
        Option("name", "NAME", "what the guest is called [guest]"),
        Option("result", "FILE", "write how the guest ended to FILE, as JSON"),
    ],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm run`` with the arguments after the verb; returns the exit code."""
    values, words = OPTIONS.parse(argv)
    given = values.pop("result", None)
    result = None if given is None else str(given)
    config = _config(values, words)
    if result is not None:
        from pyvmm.cli import result as result_file

        result_file.prepare(result)
    if config.exec is not None:
        from pyvmm.cli.exec import run_exec

        status, ending = run_exec(config)
    else:
        status, ending = None, Run(config).until_end()
    if result is not None:
        result_file.write(result, ending, status)
    if status is not None:
        return status
    if ending.code != OK and ending.code < GUEST_FIRST:
        complain(f"{ending.reason}: {ending.detail} ({ending.known})" if ending.detail else ending.reason)
    return ending.code


class Run:
    """One ``pyvmm run``, over all the guest's restarts.

    SIGINT, SIGTERM, SIGHUP, --timeout and Ctrl-A x end it with code 3. The signals are held back
    from before the first machine is built, so that none finds it half made and the terminal in raw mode.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._machine: Machine | None = None
        self._console: CharBackend | None = None
        self._over: Ending | None = None

    def until_end(self) -> Ending:
        """Run the guest in this thread, again after a reboot where that is asked for."""
        config = self._config
        with Loop() as loop, SignalFd(loop, self._handlers()):
            if config.timeout is not None:
                loop.call_later(config.timeout, self._timed_out)
            while True:
                ending = self._once(loop)
                if ending.reason != "reboot" or config.on_reboot != "restart":
                    return ending
                loop.run_once(0)  # also for a guest that is faster than the loop
                if self._over is not None:
                    return self._over

    def _once(self, loop: Loop) -> Ending:
        console = self._console = make_backend(self._config.console, on_quit=self._quit)
        try:
            with Machine(self._config.replace(timeout=None), loop=loop, console=console) as machine:
                if self._machine is None:
                    announce(self._config, console, _ports(machine))
                self._machine = machine
                made = loop.clock()
                machine.at_end(lambda: self._leave(loop.clock() - made))
                ending = machine.run()
        finally:
            console.close()
        if machine.error is not None and os.environ.get("PYVMM_DEBUG"):
            raise machine.error
        return ending

    def _leave(self, age: float) -> None:
        """The guest has ended *age* seconds after it was made; nothing of it is closed yet."""
        if age < GRACE and self._config.on_reboot != "restart":
            hand_over()

    def _handlers(self) -> dict[int, Callable[[int], object]]:
        handlers: dict[int, Callable[[int], object]] = {}
        if self._config.uses_stdio:  # job control; without it the signals have their own effect
            handlers = {SIGTSTP: lambda _: self._terminal.stop_job()}
            handlers[SIGCONT] = lambda _: self._terminal.continue_job()
            handlers[SIGWINCH] = self._resized
        return {**dict.fromkeys(heard(SIGINT, SIGTERM, SIGHUP), self._signalled), **handlers}

    @property
    def _terminal(self) -> Terminal:
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
        self._end("stopped", f"ended by {NAMES[number]}")

    def _timed_out(self) -> None:
        self._end("timeout", f"the guest did not end within {self._config.timeout:g} seconds")

    def _quit(self) -> None:
        self._end("stopped", "ended by the user")


def _ports(machine: Machine) -> list[Port]:
    return [port for console in machine.consoles for port in console.ports]


def _config(values: dict[str, Any], words: list[str]) -> Config:
    if len(words) > 1:
        raise ConfigError(f"{words[1]!r} is one word too many: give at most one board file")
    if "cpus" in values:
        values["cpus"] = _number("cpus", values["cpus"])
    if "debug_exit" in values:
        values["debug_exit"] = (
            False if values["debug_exit"] == "none" else _number("debug-exit", values["debug_exit"])
        )
    keys = {**(read_toml(words[0]) if words else {}), **values}
    if keys.get("kernel") is not None or keys.get("firmware") is not None:
        return Config(**keys)
    # Debian's stock kernel with our user space. What else is wrong is told before it is fetched.
    config = Config(**{**keys, "kernel": "the default guest's"})
    from pyvmm.images.default import default_guest

    with Interruptible():
        guest = default_guest()
    return config.replace(kernel=guest.kernel, initrd=[guest.initrd, *config.initrd])


def _number(key: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is not a number") from None
