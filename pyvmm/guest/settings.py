"""What a ``Guest`` was asked for, and what follows from it."""

from __future__ import annotations

import os

from pyvmm.config import Config
from pyvmm.config.keys import DEFAULT_KERNEL
from pyvmm.config.toml import read_toml
from pyvmm.errors import ConfigError
from pyvmm.machine.boot_files import with_boot_files, with_guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.config.keywords import ConfigKeywords


class GuestSettings:
    """The configuration of a guest.

    :param config: a ``Config``, or the path of a board file, or nothing
    :param keys: ``Config``'s keywords; they win over *config*'s
    :param commands: False leaves the guest's own init in charge of a Linux kernel

    Raises ConfigError, and StartError for a default guest that cannot be made.
    """

    __slots__ = ("config", "console_shell", "joins_a_switch", "name", "no_commands")

    def __init__(
        self, config: Config | str | os.PathLike[str] | None, keys: ConfigKeywords, commands: bool
    ) -> None:
        #: Whether our init gives a shell on the console: it does where the user space is ours.
        self.console_shell = False
        given: dict[str, Any]
        if isinstance(config, Config):
            made = config.replace(**keys) if keys else config
            given = {"name": made.name} if made.name != Config().name else {**keys}
        else:
            given = {**(read_toml(os.fspath(config)) if config is not None else {}), **keys}
            if given.get("kernel") is None and given.get("firmware") is None:
                made = Config(**{**given, "kernel": DEFAULT_KERNEL})  # what else is wrong is told first
                from pyvmm.images.default_or_host import default_or_host_guest

                made, self.console_shell = with_guest(made, default_or_host_guest()), True
            else:
                made = Config(**given)
        asked, made = made, with_boot_files(made)
        self.console_shell |= made is not asked
        if made.exec is not None:
            raise ConfigError("exec: a pyvmm.Guest runs commands by its methods; leave exec out")
        if made.console not in ("stdio", "none"):
            raise ConfigError(
                f"console: {made.console!r}: a pyvmm.Guest has its console itself; leave console out"
            )
        #: The whole configuration.
        self.config = made
        #: The name that the user chose, by which other processes reach the guest; None when nobody chose one.
        self.name = made.name if "name" in given else None
        #: Whether one of its cards is on a switch, which joins machines of one process.
        self.joins_a_switch = any(
            device.kind == "net" and str(device.values.get("type", "")).startswith("switch:")
            for device in made.devices
        )
        #: Why the guest is not given the init that runs commands; empty: it is.
        self.no_commands = _why_no_commands(made, commands)


def _why_no_commands(config: Config, wanted: bool) -> str:
    if config.firmware is not None:
        return "this guest boots firmware, which runs no commands; use guest.console"
    if not wanted:
        return "this guest was made with commands=False and has its own init; use guest.console"
    from pyvmm.boot.x86 import multiboot, multiboot2

    try:
        with open(config.kernel or "", "rb") as file:
            head = memoryview(file.read(multiboot2.SEARCH))
    except OSError:
        return ""  # the machine says what is wrong with it
    if multiboot.find_header(head) is not None or multiboot2.find_header(head) is not None:
        return "this guest boots a multiboot kernel, which runs no commands; use guest.console"
    return ""
