"""``pyvmm lab``: run a command on an emulated KVM host as if it ran here."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
from dataclasses import dataclass

from pyvmm.cli.messages import message
from pyvmm.cli.progress import Progress
from pyvmm.errors import ConfigError
from pyvmm.exec.request import Request
from pyvmm.lab import environment, lease, machine
from pyvmm.lab.pump import Pump, Sink
from pyvmm.units import parse_seconds, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyvmm.lab.channel import LabChannel

_USAGE = "pyvmm lab [x86_64 | arm64 | arm64-n1 | arm64-gicv2] [OPTION...] -- COMMAND [ARGUMENT...]"
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)


@dataclass(frozen=True, slots=True)
class LabOptions:
    """What was asked for."""

    arch: str
    command: list[str]
    fresh: bool
    memory: int | None
    cpus: int | None
    timeout: float | None
    writable: tuple[str, ...]
    exposed: tuple[str, ...]
    status: bool
    stop: bool


def main(argv: list[str]) -> int:
    """Run ``pyvmm lab``; the command's own exit status, 124 when it took longer than --timeout.

    Raises ConfigError and LabError.
    """
    if "-h" in argv[: argv.index("--") if "--" in argv else None] or argv[:1] == ["--help"]:
        parser().print_help()
        return 0
    options = parse(argv)
    if options.stop:
        return stop()
    if options.status:
        return status()
    return run(options)


def parse(argv: list[str]) -> LabOptions:
    """The command line, checked. Raises ConfigError."""
    at = argv.index("--") if "--" in argv else len(argv)
    lab = parser()
    try:
        known, rest = lab.parse_known_args(argv[:at])
    except argparse.ArgumentError as error:
        raise ConfigError(f"lab: {error}; `pyvmm lab --help` tells how it is used") from None
    command = argv[at + 1 :]
    if rest:
        raise ConfigError(f"lab: {rest[0]!r} is no option; the command comes after `--`: {_USAGE}")
    if not command and not (known.stop or known.status):
        raise ConfigError(f"lab: there is no command to run; usage: {_USAGE}")
    return LabOptions(
        known.arch,
        command,
        known.fresh,
        None if known.memory is None else parse_size(known.memory, "--memory"),
        known.cpus,
        None if known.timeout is None else parse_seconds(known.timeout, "--timeout"),
        tuple(known.rw),
        tuple(known.expose),
        known.status,
        known.stop,
    )


def run(options: LabOptions) -> int:
    """Run the command and pass on what it reads, writes and is sent."""
    name = f"fresh-{os.getpid()}" if options.fresh else ""
    wanted = machine.wanted(
        options.arch,
        options.memory,
        options.cpus,
        options.writable,
        name,
        exposed=options.exposed,
        words=options.command,
    )
    terminal = all(os.isatty(fd) for fd in range(3))

    def work(lent: lease.Lease, channel: LabChannel) -> int:
        request = Request(
            options.command,
            env=environment.variables(arch=options.arch),
            cwd=os.getcwd(),
            root=lent.root,
            pty=_size() if terminal else None,
        )
        with _signals() as signals, _raw() if terminal else contextlib.nullcontext():
            return Pump(channel, 0, Sink(1), Sink(2), signals, _size).run(request, options.timeout)

    texts = {
        "starting": f"starting the emulated {wanted.architecture.virtualization} host",
        "busy": "waiting for one of its channels",
    }
    with Progress(texts) as progress:
        return lease.use(wanted, work, progress.state, message, once=options.fresh)


def stop() -> int:
    """End every machine of this user; those for one command too."""
    for directory in _directories():
        lease.ask(directory, "stop")
    return 0


def status() -> int:
    """Print a line for each machine; 0 when there is one, else 1."""
    found = [answer for answer in (lease.ask(path, "status") for path in _directories()) if answer]
    for answer in found:
        state = f"{answer['lent']} commands running" if answer["lent"] else f"idle for {answer['idle']} s"
        state = state if answer["ready"] else "starting"
        print(f"{answer['arch']}: {answer['machine']}: {state}, QEMU {answer['qemu']}")
    if not found:
        print("no emulated host is running")
    return 0 if found else 1


def parser() -> argparse.ArgumentParser:
    """The command line of ``pyvmm lab``."""
    lab = argparse.ArgumentParser(
        prog="pyvmm lab",
        usage=_USAGE,
        description="Run a command on an emulated KVM host as if it ran here.",
        exit_on_error=False,
        add_help=False,
        allow_abbrev=False,
    )
    lab.add_argument(
        "arch",
        nargs="?",
        default="x86_64",
        help="the host: x86_64 (AMD-V), arm64 (EL2), arm64-n1, arm64-gicv2",
    )
    lab.add_argument(
        "--memory", metavar="SIZE", help="the emulated host's memory (default 4G, or half of this one's)"
    )
    lab.add_argument("--cpus", metavar="N", type=int, help="its CPUs (default 1, of an arm64 host 2)")
    lab.add_argument("--timeout", metavar="TIME", help="kill the command after this long and exit with 124")
    lab.add_argument("--rw", metavar="DIR", action="append", default=[], help="what is written to DIR stays")
    lab.add_argument(
        "--expose", metavar="PATH", action="append", default=[], help="PATH is seen, where it would be hidden"
    )
    lab.add_argument("--fresh", action="store_true", help="a machine of its own that ends with the command")
    lab.add_argument("--status", action="store_true", help="tell which machines are running")
    lab.add_argument("--stop", action="store_true", help="end the machines that are running")
    lab.add_argument("-h", "--help", action="help", help="show this text")
    return lab


def _directories() -> list[Path]:
    return [path for path in sorted(machine.state_directory().iterdir()) if path.is_dir()]


def _size() -> tuple[int, int]:
    columns, rows = shutil.get_terminal_size()
    return rows, columns


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """The terminal passes every key on, and is restored whatever happens."""
    import termios
    import tty

    modes = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, modes)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that yields the numbers of the signals this process gets, instead of their effect."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in _PASSED_ON}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
