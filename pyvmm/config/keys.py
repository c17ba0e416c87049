"""The plain keys of a machine, each declared once, and the checks of their values.

The option parser, ``--help``, the board file reader and the pages in ``docs/reference/`` read ``KEYS``.
The type and the default of each key are in the signature of ``Config``.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.units import parse_seconds, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ADDRESS = 1 << 47
MAX_CPUS = 254
BOOT_WAYS = ("auto", "bzimage", "elf", "pvh", "linux64", "multiboot", "multiboot2")
ON_REBOOT = ("exit", "restart")
VIRTIO_CMDLINE = ("auto", "on", "off")
#: As a kernel: this host's own.
HOST_KERNEL = "host"
#: Stands for the default guest's kernel while the other keys are checked, before it is fetched.
DEFAULT_KERNEL = "the default guest's"
GIC_VERSIONS = ("auto", "2", "3")
#: RAM begins at a multiple of this: kernels require it, and huge pages.
RAM_ALIGN = 2 << 20

# How a value names a file. Relative paths of a board file are taken from its own folder.
#: The value is a path.
PATH = "path"
#: ``KIND:PATH``, where KIND is one of ``config.toml.ENDPOINTS``; other kinds have no path.
ENDPOINT = "endpoint"
#: The value is a path, or HOST_KERNEL.
KERNEL_PATH = "kernel"
#: ``NAME=PATH``
NAME_AND_PATH = "name=path"
#: ``FILE.py:Class``; a module's name is no path.
CLASS = "class"

# The headings of ``--help``.
GUEST, DEVICES, TOOLS, ARM64, RUN = "Guest", "Devices", "Device tools", "arm64", "This run"
GROUPS = (GUEST, DEVICES, TOOLS, ARM64, RUN)


class Option:
    """One option: its long name, its argument (empty: none), what it is for.

    An argument in brackets may be left out: before another option, and at the end. The value is True then.

    :param name: the long name without its dashes, such as ``dtb-overlay``
    :param metavar: what ``--help`` calls the argument
    :param help: one line for ``--help`` and the reference
    :param many: may be given more than once; its value is a list
    :param group: the heading it stands under in ``--help``; empty for none
    """

    __slots__ = ("group", "help", "key", "many", "metavar", "name")

    def __init__(self, name: str, metavar: str, help: str, *, many: bool = False, group: str = "") -> None:
        self.name = name
        #: The name as a Python name.
        self.key = name.replace("-", "_")
        self.metavar = metavar
        self.help = help
        self.many = many
        self.group = group


class Key(Option):
    """A plain key of a machine: in a board file, a keyword of ``Config``, an option of ``pyvmm run``.

    :param paths: how its value names a file: PATH, ENDPOINT, NAME_AND_PATH; None when it names none
    :param parse: ``parse(option, text)`` gives the value of the command line's text; None: the text itself
    """

    __slots__ = ("parse", "paths")

    def __init__(
        self,
        name: str,
        metavar: str,
        help: str,
        *,
        group: str = GUEST,
        many: bool = False,
        paths: str | None = None,
        parse: Callable[[str, str], object] | None = None,
    ) -> None:
        super().__init__(name, metavar, help, many=many, group=group)
        self.paths = paths
        self.parse = parse


def whole_number(option: str, text: str) -> int:
    """A whole number, decimal or with a prefix such as 0x. Raises ConfigError naming *option*."""
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a number") from None


def _port_or_none(option: str, text: str) -> int | bool:
    return False if text == "none" else whole_number(option, text)


_KEYS = (
    Key(
        "kernel",
        "FILE",
        "a kernel: bzImage, ELF vmlinux, multiboot, unified; a kernel tree; host: this host's",
        paths=KERNEL_PATH,
    ),
    Key("modules", "DIR", "modules of that kernel: its guest gets them and our user space", paths=PATH),
    Key("initrd", "FILE", "an initial RAM disk; several are concatenated", many=True, paths=PATH),
    Key("cmdline", "TEXT", "the kernel command line [console=CONSOLE panic=-1; on x86 also pci=off]"),
    Key(
        "virtio-cmdline",
        "WHEN",
        "virtio devices on the command line: auto (a Linux that finds them by nothing else), on, off [auto]",
    ),
    Key("firmware", "FILE", "a ROM that ends at 4 GiB, or an ELF, instead of a kernel", paths=PATH),
    Key("memory", "SIZE", "guest RAM [256M]"),
    Key("cpus", "N", f"1 to {MAX_CPUS} virtual CPUs [1]", parse=whole_number),
    Key("cpu", "MODEL", "host, with CPUID features masked (host,-cx16) or insisted on (host,+avx2)"),
    Key(
        "console",
        "WHERE",
        "the serial console: stdio, pty, socket:PATH, file:PATH, none [stdio]",
        paths=ENDPOINT,
    ),
    Key("boot", "WAY", f"{', '.join(BOOT_WAYS)} [auto]"),
    Key("name", "NAME", "what the guest is called [guest]"),
    Key(
        "trace-device",
        "NAME[=FILE]",
        "what passes between a device and its driver",
        many=True,
        paths=NAME_AND_PATH,
        group=TOOLS,
    ),
    Key(
        "inject",
        "NAME:FAULT,...",
        "faults for the driver: drop-kick=0.01, delay=5ms",
        many=True,
        group=TOOLS,
    ),
    Key(
        "record",
        "NAME=FILE",
        "record a device's queue traffic, for pyvmm replay",
        many=True,
        paths=NAME_AND_PATH,
        group=TOOLS,
    ),
    Key("dtb", "FILE", "a device tree instead of the machine's own", paths=PATH, group=ARM64),
    Key("dtb-overlay", "FILE", "an overlay for the device tree", many=True, paths=PATH, group=ARM64),
    Key("ram-base", "ADDRESS", "where RAM begins [0x40000000]", group=ARM64),
    Key(
        "firmware-base",
        "ADDRESS",
        "where flat firmware goes; below RAM it is a ROM [0]",
        group=ARM64,
    ),
    Key(
        "uart",
        "KIND,...",
        "pl011 or 16550, with base=, irq=, shift= [pl011,base=0x9000000,irq=1]",
        group=ARM64,
    ),
    Key("gic", "VERSION", "2, 3 or auto [auto]", group=ARM64),
    Key(
        "exec",
        "CMD",
        "run CMD in the guest with this stdin, stdout and stderr; its status is ours",
        group=RUN,
    ),
    Key("timeout", "TIME", "stop the guest after this long (30s, 5m), with code 3", group=RUN),
    Key("on-reboot", "WHAT", "exit or restart when the guest reboots [exit]", group=RUN),
    Key(
        "debug-exit",
        "PORT",
        "where a byte v written ends with code 32 + (v & 31) [0x501]; none",
        parse=_port_or_none,
        group=RUN,
    ),
)

#: Every plain key by its name in Python and in a board file, in the order of ``--help``.
KEYS = {key.key: key for key in _KEYS}


# Checks: each returns *value* in its final form, or raises ConfigError, which names *key*.


def text(key: str, value: object) -> str:
    """A text that is not empty and has no NUL. Raises ConfigError."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key}: {value!r} must be a text that is not empty")
    if "\0" in value:
        raise ConfigError(f"{key}: {value!r} holds a NUL byte; leave it out")
    return value


def texts(key: str, value: object) -> tuple[str, ...]:
    """The texts of a text or a list of texts. Raises ConfigError."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key}: {value!r} must be a path or a list of paths")
    return tuple(text(key, item) for item in value)


def one_of(key: str, value: object, choices: tuple[str, ...]) -> str:
    """One of *choices*. Raises ConfigError."""
    if value not in choices:
        raise ConfigError(f"{key}: {value!r} is not offered; choose {', '.join(choices)}")
    return str(value)


def cpu_count(key: str, value: object) -> int:
    """A number of virtual CPUs, 1 to MAX_CPUS. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CPUS:
        raise ConfigError(f"{key}: {value!r} must be a whole number from 1 to {MAX_CPUS}")
    return value


def seconds(key: str, value: object) -> float:
    """A duration in seconds, from a number or a text such as ``5m``. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{key}: {value!r} is not a duration; write it like 30s or 5m")
    return parse_seconds(value, key)


def port(key: str, value: object) -> int | None:
    """An I/O port, 0 to 0xffff; None for None and False. Raises ConfigError."""
    if value is None or value is False:
        return None
    if value is True or not isinstance(value, int) or not 0 <= value <= 0xFFFF:
        raise ConfigError(f"{key}: {value!r} must be a port from 0 to 0xffff, or false for none")
    return value


def address(key: str, value: object) -> int:
    """A guest-physical address below MAX_ADDRESS, from a number or a text such as ``1G``.

    Raises ConfigError.
    """
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            value = parse_size(str(value), key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_ADDRESS:
        raise ConfigError(f"{key}: {value!r} is no address; give a number below {MAX_ADDRESS:#x}")
    return value


def ram_address(key: str, value: object) -> int:
    """An address that RAM can begin at: a multiple of 2 MiB, not 0. Raises ConfigError."""
    base = address(key, value)
    if base < RAM_ALIGN or base % RAM_ALIGN:
        raise ConfigError(f"{key}: {base:#x} is not possible; give a multiple of 2 MiB, not 0")
    return base
