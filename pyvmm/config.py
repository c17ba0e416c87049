"""What a user asks for: one checked record, from flags, keywords or a TOML file.

Nothing is opened here; a path is only a string. A wrong value raises ConfigError naming
the key.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.units import parse_seconds, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KIB = 1 << 10
MIB = 1 << 20
PAGE = 4096
MIN_MEMORY = MIB
MAX_MEMORY = 1 << 46
MAX_ADDRESS = 1 << 47
MAX_CPUS = 254
MAX_BOARD_FILE = 1 << 20
BACKINGS = ("anonymous", "memfd", "hugetlb", "file")
#: The kinds of virtio devices, and the key that the first word of each is the value of.
DEVICE_KINDS: dict[str, str | None] = {
    "device": "class",
    "disk": "path",
    "hvc": "to",
    "net": "type",
    "rng": None,
    "vsock": "cid",
    "balloon": None,
    "share": "path",
    "vhost_user": "socket",
}
#: Kinds that another process serves: guest RAM is shared memory then.
SHARING_KINDS = frozenset(("share", "vhost_user"))
BOOT_WAYS = ("auto", "bzimage", "elf", "pvh", "linux64", "multiboot", "multiboot2")
ON_REBOOT = ("exit", "restart")
GIC_VERSIONS = ("auto", "2", "3")
#: RAM begins at a multiple of this: kernels want it, and huge pages.
RAM_ALIGN = 2 * MIB


class MemoryPart:
    """A stretch of guest RAM and the host object it comes from."""

    __slots__ = ("backing", "path", "size")

    def __init__(self, size: int, backing: str = "anonymous", path: str | None = None) -> None:
        self.size = size
        self.backing = backing
        self.path = path


class DeviceWords:
    """A device as asked for: its kind, and the words that say more of it.

    *values* has a text for ``key=value`` and True for a key alone.
    """

    __slots__ = ("kind", "values")

    def __init__(self, kind: str, values: dict[str, str | bool]) -> None:
        self.kind = kind
        self.values = values


class Config:
    """One machine as asked for. Keywords are the board file's keys.

    :param name: what the guest is called, in messages and for its devices' addresses
    :param kernel: a kernel image: bzImage, ELF, multiboot; None boots ``firmware``
    :param firmware: a ROM image that ends at 4 GiB, or an ELF
    :param initrd: paths; several are concatenated
    :param cmdline: the kernel's command line; None for a console on the first serial port, or on hvc0 when
        there is one and ``console`` is ``none``
    :param memory: bytes, a text such as ``256M``, or a list of parts
        ``{"size": ..., "backing": "anonymous" | "memfd" | "hugetlb" | "file", "path": ...}``
    :param cpus: 1-254
    :param cpu: ``host``, then ``,-name`` to mask a CPUID feature and ``,+name`` to insist on one
    :param console: ``stdio``, ``pty``, ``socket:PATH``, ``file:PATH`` or ``none``; without it ``none``
        where an ``hvc`` is a console, else ``stdio``
    :param boot: how the kernel is entered; ``auto`` takes the fastest way the image allows
    :param timeout: seconds until the machine is stopped with code 3
    :param on_reboot: ``exit`` ends the run, ``restart`` builds the machine anew
    :param debug_exit: the debug-exit port; None or false for none
    :param trace_device: devices to trace, ``NAME`` or ``NAME=FILE``; ``all`` for all
    :param inject: faults for drivers, ``NAME:FAULT,...``; see ``virtio/tools/inject.py``
    :param record: ``NAME=FILE``, a device whose queue traffic is recorded
    :param exec: a shell command to run in the guest; it needs a Linux kernel
    :param ram_base: arm64: where RAM begins, a number or a text such as ``0x80000000`` or ``1G``
    :param firmware_base: arm64: where flat firmware goes; below RAM it is a ROM
    :param uart: arm64: ``pl011`` or ``16550``, then ``,base=ADDRESS``, ``,irq=NUMBER``, ``,shift=NUMBER``
    :param gic: arm64: the interrupt controller's version, ``2`` or ``3``; ``auto`` for the newest there is
    :param dtb: arm64: a device tree blob instead of the machine's own
    :param dtb_overlay: arm64: device tree overlays, put on in this order
    :param rng: virtio devices, a key a kind (``DEVICE_KINDS``): a text ``FIRST,key=value,flag``, a
        table of the same keys, true for a device without any, or a list of these
    """

    #: Keys of arm64 machines alone; an x86-64 host refuses them.
    ARM64_KEYS = ("dtb", "dtb_overlay", "firmware_base", "gic", "ram_base", "uart")

    __slots__ = (
        "boot",
        "cmdline",
        "console",
        "cpu",
        "cpus",
        "debug_exit",
        "devices",
        "dtb",
        "dtb_overlay",
        "exec",
        "firmware",
        "firmware_base",
        "gic",
        "initrd",
        "inject",
        "kernel",
        "memory",
        "name",
        "on_reboot",
        "ram_base",
        "record",
        "timeout",
        "trace_device",
        "uart",
    )

    kernel: str | None
    firmware: str | None
    firmware_base: int | None
    ram_base: int | None
    uart: str | None
    gic: str | None
    dtb: str | None
    dtb_overlay: tuple[str, ...]
    initrd: tuple[str, ...]
    cmdline: str | None
    memory: tuple[MemoryPart, ...]
    cpus: int
    cpu: str
    console: str
    boot: str
    timeout: float | None
    on_reboot: str
    debug_exit: int | None
    exec: str | None
    name: str
    trace_device: tuple[str, ...]
    inject: tuple[str, ...]
    record: tuple[str, ...]
    #: Virtio devices, in the order of DEVICE_KINDS and of each kind's list.
    devices: tuple[DeviceWords, ...]

    def __init__(self, **keys: Any) -> None:
        for key in keys:
            if key not in _CHECKS and key not in DEVICE_KINDS and key != "devices":
                raise ConfigError(_unknown(key))
        for key, (default, check) in _CHECKS.items():
            value = keys.get(key, default)
            setattr(self, key, default if value is None and default is None else check(key, value))
        devices = list(keys.get("devices", ()))
        for kind in DEVICE_KINDS:
            if kind in keys:
                devices += _devices(kind, keys[kind])
        self.devices = tuple(devices)
        if "console" not in keys and self._has_hvc_console:
            self.console = "none"
        self._refuse_two_on_stdio()
        if self.kernel is not None and self.firmware is not None:
            raise ConfigError("kernel and firmware exclude each other: give one of them")
        if self.kernel is None and (self.initrd or self.boot != "auto"):
            raise ConfigError("initrd and boot need a kernel: give one with --kernel")
        if self.exec is not None and self.firmware is not None:
            raise ConfigError("exec needs a Linux kernel: leave firmware out")

    @property
    def _has_hvc_console(self) -> bool:
        """Whether a port of a virtio console is a console, not a plain stream of bytes."""
        ports = [device.values for device in self.devices if device.kind == "hvc"]
        return any(str(port.get("port", "off")).lower() in ("off", "no", "false", "0") for port in ports)

    @property
    def kernel_console(self) -> str:
        """Where a Linux kernel is told to have its console when the user says nothing."""
        return "hvc0" if self.console == "none" and self._has_hvc_console else "ttyS0"

    @property
    def uses_stdio(self) -> bool:
        """Whether a console is on this process's standard input and output."""
        return self.console == "stdio" or self._stdio_ports > 0

    @property
    def _stdio_ports(self) -> int:
        return sum(device.kind == "hvc" and device.values.get("to") == "stdio" for device in self.devices)

    def _refuse_two_on_stdio(self) -> None:
        users = ["hvc"] * self._stdio_ports
        if users:
            users += ["console"] * (self.console == "stdio") + ["exec"] * (self.exec is not None)
        if len(users) > 1:
            raise ConfigError(
                f"{users[0]} and {users[1]} both want stdio; give one of them pty, socket:PATH or none"
            )

    @property
    def memory_size(self) -> int:
        """Bytes of guest RAM in all."""
        return sum(part.size for part in self.memory)

    @property
    def shares_memory(self) -> bool:
        """Whether a device of another process must reach guest RAM."""
        return any(device.kind in SHARING_KINDS for device in self.devices)

    @property
    def looked_at(self) -> bool:
        """Whether a device is to be traced, disturbed or recorded."""
        return bool(self.trace_device or self.inject or self.record)

    def replace(self, **keys: Any) -> Config:
        """A copy with some keys changed."""
        mine: dict[str, Any] = {key: getattr(self, key) for key in (*_CHECKS, "devices")}
        return Config(**{**mine, **keys})

    @classmethod
    def from_toml(cls, path: str, **overrides: Any) -> Config:
        """Read a board file; *overrides* win over its keys. Relative paths are the file's own folder's."""
        return cls(**{**read_toml(path), **overrides})


def read_toml(path: str) -> dict[str, Any]:
    """The keys of board file *path*, with its relative paths made absolute."""
    import os
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BOARD_FILE + 1)
        if len(data) > MAX_BOARD_FILE:
            raise ConfigError(f"{path} is larger than {MAX_BOARD_FILE} bytes; give the path of a board file")
        keys = tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a board file") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, a number of 5000 digits
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep; a board file has two levels") from None
    for key in keys:
        if key not in _CHECKS and key not in DEVICE_KINDS:
            raise ConfigError(f"{path}: {_unknown(key)}")
    folder = os.path.dirname(os.path.abspath(path))

    def absolute(value: Any) -> Any:
        return os.path.join(folder, value) if isinstance(value, str) and value else value

    for key in ("kernel", "firmware", "initrd", "dtb", "dtb_overlay"):
        value = keys.get(key)
        if value is not None:
            keys[key] = [absolute(item) for item in value] if isinstance(value, list) else absolute(value)
    if isinstance(keys.get("memory"), list):
        for part in keys["memory"]:
            if isinstance(part, dict) and "path" in part:
                part["path"] = absolute(part["path"])
    if isinstance(keys.get("console"), str):
        keys["console"] = _absolute_end(keys["console"], folder)
    if "hvc" in keys:
        ports = keys["hvc"] if isinstance(keys["hvc"], list) else [keys["hvc"]]
        for port in ports:
            if isinstance(port, dict) and isinstance(port.get("to"), str):
                port["to"] = _absolute_end(port["to"], folder)
        plain = folder.replace(",", ",,")
        keys["hvc"] = [_absolute_end(port, plain) if isinstance(port, str) else port for port in ports]
    for kind, first in DEVICE_KINDS.items():
        if first == "path" and kind in keys:
            keys[kind] = _absolute_device(keys[kind], folder)
    if "vsock" in keys:  # its path is not the first word
        sockets = keys["vsock"] if isinstance(keys["vsock"], list) else [keys["vsock"]]
        tables = [split_words("vsock", item) if isinstance(item, str) else item for item in sockets]
        keys["vsock"] = _absolute_device(tables, folder)
    if "device" in keys:
        keys["device"] = _absolute_class(keys["device"], folder)
    return keys


def _absolute_device(value: Any, folder: str) -> Any:
    """Devices named by a path, with that path taken from *folder*."""
    import os

    if isinstance(value, list):
        return [_absolute_device(item, folder) for item in value]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return {**value, "path": os.path.join(folder, value["path"])}
    if isinstance(value, str) and value:
        start = "path=" if value.startswith("path=") else ""
        return start + os.path.join(folder.replace(",", ",,"), value[len(start) :])
    return value


def _absolute_class(value: Any, folder: str) -> Any:
    """Device classes in files, ``FILE.py:Class``, with that file taken from *folder*."""
    import os

    if isinstance(value, list):
        return [_absolute_class(item, folder) for item in value]
    if isinstance(value, dict) and ".py:" in str(value.get("class")):
        return {**value, "class": os.path.join(folder, str(value["class"]))}
    if isinstance(value, str) and ".py:" in value.partition(",")[0]:
        start = "class=" if value.startswith("class=") else ""
        return start + os.path.join(folder.replace(",", ",,"), value[len(start) :])
    return value


def _absolute_end(spec: str, folder: str) -> str:
    """A backend such as ``socket:PATH`` with its path taken from *folder*."""
    import os

    kind, colon, path = spec.partition(":")
    return kind + colon + (os.path.join(folder, path) if path else "")


def _unknown(key: str) -> str:
    return f"{key!r} is not a key of a machine; the keys are {', '.join(sorted((*_CHECKS, *DEVICE_KINDS)))}"


def split_words(kind: str, text: str) -> dict[str, str | bool]:
    """``FIRST,key=value,flag`` as keys and values; a doubled comma is a comma. Raises ConfigError."""
    first = DEVICE_KINDS[kind]
    values: dict[str, str | bool] = {}
    for n, word in enumerate(text.replace(",,", "\0").split(",")):
        word = word.replace("\0", ",")
        key, equals, value = word.partition("=")
        if n == 0 and first is not None and (not equals or not key.isidentifier()):
            key, equals, value = first, "=", word
        if not key or (n == 0 and not word):
            raise ConfigError(f"{kind}: {text!r} has an empty word; write key=value,key=value")
        if key in values:
            raise ConfigError(f"{kind}: {text!r} gives {key} twice; leave one of them out")
        values[key] = value if equals else True
    return values


def _devices(kind: str, value: Any) -> list[DeviceWords]:
    """The devices of one kind."""
    items = value if isinstance(value, list | tuple) else [value]
    found = []
    for item in items:
        if isinstance(item, str):
            found.append(DeviceWords(kind, split_words(kind, _text(kind, item))))
        elif isinstance(item, dict):
            wrong = [key for key, value in item.items() if not isinstance(value, str | int | float)]
            if wrong:
                raise ConfigError(f"{kind}: {wrong[0]} must be a text, a number, or true")
            values = {key: value if isinstance(value, bool) else str(value) for key, value in item.items()}
            found.append(DeviceWords(kind, values))
        elif item is True:
            found.append(DeviceWords(kind, {}))
        elif item is not False:
            raise ConfigError(f"{kind}: {item!r} must be a text FIRST,key=value, a table, or true")
    return found


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key}: {value!r} must be a text that is not empty")
    if "\0" in value:
        raise ConfigError(f"{key}: {value!r} holds a NUL byte; leave it out")
    return value


def _cmdline(key: str, value: Any) -> str:
    return "" if value == "" else _text(key, value)


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key}: {value!r} must be a path or a list of paths")
    return tuple(_text(key, item) for item in value)


def _one_of(choices: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(key: str, value: Any) -> str:
        if value not in choices:
            raise ConfigError(f"{key}: {value!r} is not offered; choose {', '.join(choices)}")
        return str(value)

    return check


def _cpus(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CPUS:
        raise ConfigError(f"{key}: {value!r} must be a whole number from 1 to {MAX_CPUS}")
    return value


def _seconds(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{key}: {value!r} is not a duration; write it like 30s or 5m")
    return parse_seconds(value, key)


def _port(key: str, value: Any) -> int | None:
    if value is None or value is False:
        return None
    if value is True or not isinstance(value, int) or not 0 <= value <= 0xFFFF:
        raise ConfigError(f"{key}: {value!r} must be a port from 0 to 0xffff, or false for none")
    return value


def _address(key: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            value = parse_size(value, key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_ADDRESS:
        raise ConfigError(f"{key}: {value!r} is no address; give a number below {MAX_ADDRESS:#x}")
    return value


def _ram_base(key: str, value: Any) -> int:
    base = _address(key, value)
    if base < RAM_ALIGN or base % RAM_ALIGN:
        raise ConfigError(f"{key}: {base:#x} is not possible; give a multiple of 2 MiB, not 0")
    return base


def _part(key: str, value: Any) -> MemoryPart:
    if isinstance(value, MemoryPart):
        return value
    if not isinstance(value, dict):
        value = {"size": value}
    unknown = set(value) - {"size", "backing", "path"}
    if unknown or "size" not in value:
        raise ConfigError(f"{key}: a part has size and, if you like, backing and path, not {value!r}")
    if isinstance(value["size"], bool) or not isinstance(value["size"], int | str):
        raise ConfigError(f"{key}: {value['size']!r} is not a size; write it like 256M or 4.5G")
    size = parse_size(value["size"], key)
    backing = _one_of(BACKINGS)(f"{key} backing", value.get("backing", "anonymous"))
    path = value.get("path")
    if (backing == "file") != (path is not None):
        raise ConfigError(f"{key}: a path goes with backing file, and only with it")
    if size % PAGE:
        raise ConfigError(
            f"{key}: {value['size']!r} is not a multiple of {PAGE} bytes; round it to whole pages"
        )
    return MemoryPart(size, backing, None if path is None else _text(f"{key} path", path))


def _memory(key: str, value: Any) -> tuple[MemoryPart, ...]:
    parts = value if isinstance(value, list | tuple) else [value]
    checked = tuple(_part(key, part) for part in parts)
    total = sum(part.size for part in checked)
    if not MIN_MEMORY <= total <= MAX_MEMORY:
        raise ConfigError(f"{key}: {total} bytes in all is out of range; give 1M to 64T")
    return checked


_CHECKS: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    "name": ("guest", _text),
    "kernel": (None, _text),
    "firmware": (None, _text),
    "initrd": ((), _texts),
    "cmdline": (None, _cmdline),
    "memory": (256 * MIB, _memory),
    "cpus": (1, _cpus),
    "cpu": ("host", _text),
    "console": ("stdio", _text),
    "boot": ("auto", _one_of(BOOT_WAYS)),
    "timeout": (None, _seconds),
    "on_reboot": ("exit", _one_of(ON_REBOOT)),
    "debug_exit": (0x501, _port),
    "exec": (None, _text),
    "ram_base": (None, _ram_base),
    "firmware_base": (None, _address),
    "uart": (None, _text),
    "gic": (None, _one_of(GIC_VERSIONS)),
    "dtb": (None, _text),
    "dtb_overlay": ((), _texts),
    "trace_device": ((), _texts),
    "inject": ((), _texts),
    "record": ((), _texts),
}
