"""``pyvmm run``: boot a guest."""

from __future__ import annotations

import os
import sys

from pyvmm.arch.x86_64.host import PVM, virtualization
from pyvmm.cli.main import complain
from pyvmm.cli.options import Option, Options
from pyvmm.config import Config, read_toml
from pyvmm.errors import ConfigError, StartError
from pyvmm.loop import Loop
from pyvmm.machine.ending import GUEST_FIRST, OK, Ending
from pyvmm.machine.machine import Machine
from pyvmm.signals import NAMES, SIGHUP, SIGINT, SIGTERM, SignalFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = Options(
    "pyvmm run [BOARD.toml] [OPTION ...]",
    "Boots a guest. Without --kernel, --firmware or a board file it is Debian's stock kernel with a\n"
    "small user space, fetched once. Flags win over the board file's keys. Ctrl-A x ends a guest on\n"
    "the terminal, Ctrl-A h tells more.",
    [
        Option("kernel", "FILE", "a kernel: bzImage, ELF vmlinux, multiboot"),
        Option("initrd", "FILE", "an initial RAM disk; several are concatenated", many=True),
        Option("cmdline", "TEXT", "the kernel command line [console=ttyS0 panic=-1 pci=off]"),
        Option("firmware", "FILE", "a ROM that ends at 4 GiB, or an ELF, instead of a kernel"),
        Option("memory", "SIZE", "guest RAM [256M]"),
        Option("cpus", "N", "1 to 254 virtual CPUs [1]"),
        Option("cpu", "MODEL", "host, with CPUID features masked (host,-cx16) or insisted on (host,+avx2)"),
        Option("console", "WHERE", "the serial console: stdio, pty, socket:PATH, file:PATH, none [stdio]"),
        Option("boot", "WAY", "auto, bzimage, elf, pvh, linux64, multiboot, multiboot2 [auto]"),
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
    result = values.pop("result", None)
    config = _config(values, words)
    if result is not None:
        _check_result(str(result))
    if config.kernel is not None and virtualization() == PVM:
        complain(
            "this host's KVM (PVM) emulates ring 0 at a thousandth of the speed and lacks instructions; "
            "`pyvmm lab x86_64 -- pyvmm run ...` boots kernels"
        )
    if config.exec is not None:
        from pyvmm.cli.exec import run_exec

        status, ending = run_exec(config)
    else:
        status, ending = None, _run_until_end(config)
    if result is not None:
        _write_result(str(result), ending, status)
    if status is not None:
        return status
    if ending.code != OK and ending.code < GUEST_FIRST:
        complain(f"{ending.reason}: {ending.detail} ({ending.known})" if ending.detail else ending.reason)
    return ending.code


class Signals:
    """SIGINT, SIGTERM and SIGHUP end the machine with code 3.

    They are held back from before the machine is built, so that none finds it half made
    and the terminal in raw mode.
    """

    def __init__(self, loop: Loop) -> None:
        self.machine: Machine | None = None
        self._fd = SignalFd(loop, dict.fromkeys((SIGINT, SIGTERM, SIGHUP), self._stop))

    def _stop(self, number: int) -> None:
        assert self.machine is not None, "the loop runs after the machine is built"
        self.machine.stop("stopped", f"ended by {NAMES[number]}")

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *_: object) -> None:
        self._fd.close()


def run_machine(config: Config) -> Ending:
    """Build a machine, run it in this thread, and return how it ended."""
    with Loop() as loop, Signals(loop) as signals, Machine(config, loop=loop) as machine:
        signals.machine = machine
        ending = machine.run()
        if machine.error is not None and os.environ.get("PYVMM_DEBUG"):
            raise machine.error
        return ending


def _run_until_end(config: Config) -> Ending:
    while True:
        ending = run_machine(config)
        if ending.reason != "reboot" or config.on_reboot != "restart":
            return ending


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
    if not keys.get("kernel") and not keys.get("firmware"):
        keys = _default_guest(keys)
    return Config(**keys)


def _default_guest(keys: dict[str, Any]) -> dict[str, Any]:
    """Debian's stock kernel with our user space, where the user names no image."""
    from pyvmm.guests.default import default_guest

    guest = default_guest()
    initrd = [guest.initrd, *keys.pop("initrd", [])]
    return {**keys, "kernel": guest.kernel, "initrd": initrd}


def _number(key: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is not a number") from None


def _check_result(path: str) -> None:
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise StartError(f"result file {path} cannot be written; give a path in a folder you can write to")


def _write_result(path: str, ending: Ending, status: int | None) -> None:
    """The record appears whole or not at all."""
    import json

    record = ending.record()
    if status is not None:
        record["status"] = status
    partial = f"{path}.{os.getpid()}"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(record, file)
            file.write("\n")
        os.replace(partial, path)
    except OSError as error:
        sys.stderr.write(f"pyvmm: result file {path} was not written: {error.strerror}\n")
