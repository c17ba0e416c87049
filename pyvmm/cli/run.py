"""``pyvmm run``: boot a guest."""

from __future__ import annotations

import os
import sys

from pyvmm import bundle, host
from pyvmm.backends.base import CharBackend
from pyvmm.cli.in_vm_process import InVmProcess
from pyvmm.cli.interrupt import Interruptible
from pyvmm.cli.messages import announce, kernel_warning, message
from pyvmm.cli.options import Option, OptionParser
from pyvmm.cli.outcome import code_of, leave
from pyvmm.cli.vm_parent import VmParent
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.config.keys import DEFAULT_KERNEL, GROUPS, KEYS, RUN
from pyvmm.errors import ConfigError, StartError
from pyvmm.machine.ending import GUEST_FIRST, OK
from pyvmm.machine.host_side import HostSide
from pyvmm.sandbox import mode as sandbox_mode
from pyvmm.sandbox.vm_process import fork
from pyvmm.units import parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pyvmm.cli.local_terminal import LocalTerminal
    from pyvmm.guest.registry import Claim

_SANDBOX = sandbox_mode.ON
OPTIONS = OptionParser(
    "pyvmm run [BOARD.toml] [OPTION ...]",
    "Boots a guest. Without --kernel, --firmware or a board file it is Debian's stock kernel with a\n"
    "small user space, fetched once; where Debian's packages are not to be had, this host's kernel. Flags\n"
    "win over the board file's keys. Ctrl-A x ends a guest on the terminal, Ctrl-A h tells more.",
    [
        *sorted((*KEYS.values(), *DEVICE_KINDS.values()), key=lambda option: GROUPS.index(option.group)),
        Option("result", "FILE", "write how the guest ended to FILE, as JSON", group=RUN),
        Option(
            "stop-with",
            "button,TIME",
            "a signal, --timeout and Ctrl-A x press the power button first, and stop the guest TIME later",
            group=RUN,
        ),
        Option("sandbox", sandbox_mode.METAVAR, f"{sandbox_mode.HELP} [{_SANDBOX}]", group=RUN),
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
    mode = sandbox_mode.parse_mode(values.pop("sandbox", _SANDBOX))
    button = _button(values.pop("stop_with", None))
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
    claim = _claimed(config.name) if named else None
    sys.stdout.flush()  # what a module of the user's has printed is not the VM process's to print again
    terminal = None
    if config.exec is not None:
        from pyvmm.cli.local_terminal import LocalTerminal

        terminal = LocalTerminal()
    keys = config.uses_stdio and os.isatty(0) if terminal is None else terminal.size is not None
    console = CharBackend() if terminal is not None and config.console == "stdio" else None
    # Of a kernel that is not ours it is told once there is a machine that boots it.
    warning = None if ours or config.kernel is None else kernel_warning()
    with VmParent(config, claim, keys, button) as guest:
        host_side = guest.host_side = HostSide(config, console)
        announce(config, host_side.console, host_side.open())
        boot = 0
        while True:
            process, parent = fork(host_side.asks)
            if parent is not None:
                guest.close_copy()
                there = InVmProcess(
                    parent, host_side, guest.leftovers, guest.left, warning, mode, boot, button
                )
                _be_vm_process(config, ours, terminal, there)
            assert process is not None, "fork returns one of them"
            ending = guest.until_end_of(process)
            if not guest.goes_on:
                break
            boot += 1
            host_side.reopen()
    if isinstance(ending, int):
        return ending
    status = guest.command_status
    if result is not None:
        result_file.write(result, ending, status)
    if status is not None:
        return status
    if ending.code != OK and not GUEST_FIRST <= ending.code < StartError.exit_code:
        message(str(ending))
    return ending.code


def _be_vm_process(
    config: Config, ours: bool, terminal: LocalTerminal | None, there: InVmProcess
) -> NoReturn:
    """Run a machine of the guest, tell the parent how it ended, or say why it did not begin, and exit."""

    def run() -> int:
        bundle.load_machine()
        if terminal is not None:
            from pyvmm.cli.exec import run_exec

            run_exec(config, terminal, there)
        else:
            from pyvmm.cli.guest_run import GuestRun

            GuestRun(config, ours, there).until_end()
        return OK

    leave(code_of(run))


def _button(given: object) -> float:
    """The seconds in ``button,TIME``; 0 where nothing was given. Raises ConfigError."""
    if given is None:
        return 0.0
    kind, comma, time = str(given).partition(",")
    if kind != "button" or not comma:
        raise ConfigError(f"--stop-with={given} is not offered; write --stop-with=button,30s")
    return parse_seconds(time, "--stop-with")


def _claimed(name: str) -> Claim | None:
    """The name that the user has chosen. Raises NameTakenError; None, said, where there can be no socket."""
    from pyvmm.guest.registry import RegistryError, claim

    try:
        return claim(name)
    except RegistryError as error:
        message(f"no other process can reach this guest: {error}")
        return None


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

        _check_kvm()
        with Interruptible():
            return with_guest(config, default_or_host_guest()), named, True
    with Interruptible():
        config = with_boot_files(config)
    _check_kvm()
    return config, named, True


def _check_kvm() -> None:
    from pyvmm.pykvm import Kvm

    Kvm().close()
    if warning := kernel_warning():
        message(warning)


def _show_progress() -> None:
    from pyvmm.cli.report_handler import show_progress  # loads ``logging``; most guests are in the cache

    show_progress()
