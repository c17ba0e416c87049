"""What a user asks for: one checked record, from options, keywords or a board file.

Nothing is opened here; a path is only a string. A wrong value raises ConfigError naming
the key. The keys are declared in ``keys`` and ``devices``, board files are read by ``toml``.
"""

from __future__ import annotations

from pyvmm.config.devices import DEVICE_KINDS, DeviceOptions, unknown_key
from pyvmm.config.keys import (
    ARM64,
    BOOT_WAYS,
    DEFAULT_KERNEL,
    GIC_VERSIONS,
    HOST_KERNEL,
    KEYS,
    ON_REBOOT,
    VIRTIO_CMDLINE,
    address,
    cpu_count,
    one_of,
    port,
    ram_address,
    seconds,
    text,
    texts,
)
from pyvmm.config.memory import MemoryPart, memory_parts
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TypeVar, Unpack

    from pyvmm.config.keywords import AllConfigKeywords, DeviceValues, MemoryValue

    Value = TypeVar("Value")

__all__ = ["DEVICE_KINDS", "Config", "DeviceOptions", "MemoryPart"]


class Config:
    """One machine as asked for. Keywords are the board file's keys; the attributes are the checked values.

    Two are equal when all their values are; there is no hash, as a device's options can be changed.
    Raises ConfigError for an unknown key, a wrong value, and for keys that exclude each other.

    :param name: what the guest is called, in messages and for its devices' addresses
    :param kernel: a kernel image: bzImage, ELF, multiboot, unified; a kernel tree, whose kernel and modules
        are taken; ``host`` for this host's own; None boots ``firmware``
    :param modules: the directory of the kernel image's modules, such as /lib/modules: its guest gets them in
        an initramfs with our init and busybox
    :param firmware: a ROM image that ends at 4 GiB, or an ELF
    :param initrd: paths; several are concatenated
    :param cmdline: the kernel's command line; None for a console on the first serial port, or on hvc0 when
        there is one and ``console`` is ``none``; a multiboot kernel then gets its file's name
    :param virtio_cmdline: whether the command line names virtio devices (``virtio_mmio.device=``): ``auto``,
        for a Linux that finds them by nothing else, ``on`` or ``off``
    :param memory: bytes, a text such as ``256M``, or a list of parts
        ``{"size": ..., "backing": "anonymous" | "memfd" | "hugetlb" | "file", "path": ...}``; 1 MiB to 64 TiB
    :param cpus: 1-254
    :param cpu: ``host``, then ``,-name`` to mask a CPUID feature and ``,+name`` to insist on one
    :param console: ``stdio``, ``pty``, ``socket:PATH``, ``file:PATH`` or ``none``; None is ``none``
        where an ``hvc`` is a console, else ``stdio``
    :param boot: how the kernel is entered; ``auto`` takes the fastest way the image allows
    :param timeout: seconds, or a text such as ``5m``, until the machine is stopped with code 3
    :param on_reboot: ``exit`` ends the run, ``restart`` builds the machine anew
    :param debug_exit: the debug-exit port; None or false for none
    :param exec: a shell command to run in the guest; it needs a Linux kernel
    :param trace_device: devices to trace, ``NAME`` or ``NAME=FILE``; ``all`` for all
    :param inject: faults for drivers, ``NAME:FAULT,...``; see ``virtio/tools/inject.py``
    :param record: ``NAME=FILE``, a device whose queue traffic is recorded
    :param ram_base: arm64: where RAM begins, a number or a text such as ``0x80000000`` or ``1G``
    :param firmware_base: arm64: where flat firmware goes; below RAM it is a ROM
    :param uart: arm64: ``pl011`` or ``16550``, then ``,base=ADDRESS``, ``,irq=NUMBER``, ``,shift=NUMBER``
    :param gic: arm64: the interrupt controller's version, ``2`` or ``3``; ``auto`` for the newest there is
    :param dtb: arm64: a device tree blob instead of the machine's own
    :param dtb_overlay: arm64: device tree overlays, applied in this order
    :param devices: virtio devices, before those that a keyword of their kind asks for
    :param disk: virtio devices, a keyword a kind (``DEVICE_KINDS``): a text ``FIRST,key=value,flag``, a
        table of the same keys, true for a device without any, or a list of these
    """

    #: Keys of arm64 machines alone; an x86-64 host refuses them.
    ARM64_KEYS = tuple(key.key for key in KEYS.values() if key.group == ARM64)

    __slots__ = (*KEYS, "devices")

    def __init__(
        self,
        /,
        *,
        name: str = "guest",
        kernel: str | None = None,
        modules: str | None = None,
        firmware: str | None = None,
        initrd: str | Sequence[str] = (),
        cmdline: str | None = None,
        virtio_cmdline: str = "auto",
        memory: MemoryValue | Sequence[MemoryValue] = "256M",
        cpus: int = 1,
        cpu: str = "host",
        console: str | None = None,
        boot: str = "auto",
        timeout: float | str | None = None,
        on_reboot: str = "exit",
        debug_exit: int | bool | None = 0x501,
        exec: str | None = None,
        trace_device: str | Sequence[str] = (),
        inject: str | Sequence[str] = (),
        record: str | Sequence[str] = (),
        ram_base: int | str | None = None,
        firmware_base: int | str | None = None,
        uart: str | None = None,
        gic: str | None = None,
        dtb: str | None = None,
        dtb_overlay: str | Sequence[str] = (),
        devices: Sequence[DeviceOptions] = (),
        device: DeviceValues = (),
        disk: DeviceValues = (),
        hvc: DeviceValues = (),
        net: DeviceValues = (),
        rng: DeviceValues = (),
        vsock: DeviceValues = (),
        balloon: DeviceValues = (),
        share: DeviceValues = (),
        vhost_user: DeviceValues = (),
        **unknown: NoReturn,
    ) -> None:
        asked = locals()
        for key in unknown:
            raise ConfigError(unknown_key(key))
        self.name = text("name", name)
        self.kernel = _optional(text, "kernel", kernel)
        self.modules = _optional(text, "modules", modules)
        self.firmware = _optional(text, "firmware", firmware)
        self.initrd = texts("initrd", initrd)
        self.cmdline = cmdline if cmdline == "" else _optional(text, "cmdline", cmdline)
        self.virtio_cmdline = one_of("virtio_cmdline", virtio_cmdline, VIRTIO_CMDLINE)
        self.memory = memory_parts("memory", memory)
        self.cpus = cpu_count("cpus", cpus)
        self.cpu = text("cpu", cpu)
        self.boot = one_of("boot", boot, BOOT_WAYS)
        self.timeout = _optional(seconds, "timeout", timeout)
        self.on_reboot = one_of("on_reboot", on_reboot, ON_REBOOT)
        self.debug_exit = port("debug_exit", debug_exit)
        self.exec = _optional(text, "exec", exec)
        self.trace_device = texts("trace_device", trace_device)
        self.inject = texts("inject", inject)
        self.record = texts("record", record)
        self.ram_base = _optional(ram_address, "ram_base", ram_base)
        self.firmware_base = _optional(address, "firmware_base", firmware_base)
        self.uart = _optional(text, "uart", uart)
        self.gic = None if gic is None else one_of("gic", gic, GIC_VERSIONS)
        self.dtb = _optional(text, "dtb", dtb)
        self.dtb_overlay = texts("dtb_overlay", dtb_overlay)
        found = list(devices)
        for kind in DEVICE_KINDS.values():
            found += kind.read(asked[kind.key])
        #: Virtio devices; those of keywords in the order of DEVICE_KINDS and of each kind's list.
        self.devices = tuple(found)
        if console is None:
            console = "none" if self._has_hvc_console else "stdio"
        self.console = text("console", console)
        self._refuse_contradictions()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return all(getattr(self, key) == getattr(other, key) for key in Config.__slots__)

    def __repr__(self) -> str:
        """The keywords that differ from their defaults."""
        default = Config()
        values = ((key, getattr(self, key)) for key in Config.__slots__)
        changed = [f"{key}={value!r}" for key, value in values if value != getattr(default, key)]
        return f"Config({', '.join(changed)})"

    def _refuse_contradictions(self) -> None:
        users = ["hvc"] * self._stdio_ports
        if users:
            users += ["console"] * (self.console == "stdio") + ["exec"] * (self.exec is not None)
        if len(users) > 1:
            raise ConfigError(
                f"{users[0]} and {users[1]} both want stdio; give one of them pty, socket:PATH or none"
            )
        if self.kernel is not None and self.firmware is not None:
            raise ConfigError("kernel and firmware exclude each other: give one of them")
        if self.kernel is None and (self.initrd or self.boot != "auto"):
            raise ConfigError("initrd and boot need a kernel: give one with --kernel")
        if self.modules is not None and self.kernel in (None, DEFAULT_KERNEL, HOST_KERNEL):
            raise ConfigError("modules needs the kernel image that they belong to: give one with --kernel")
        if self.kernel is None and self.virtio_cmdline == "on":
            raise ConfigError("virtio_cmdline needs a kernel: give one with --kernel")
        if self.exec is not None and self.firmware is not None:
            raise ConfigError("exec needs a Linux kernel: leave firmware out")

    @property
    def _has_hvc_console(self) -> bool:
        """Whether a port of a virtio console is a console, not a plain stream of bytes."""
        ports = [device.values for device in self.devices if device.kind == "hvc"]
        return any(str(port.get("port", "off")).lower() in ("off", "no", "false", "0") for port in ports)

    @property
    def _stdio_ports(self) -> int:
        return sum(device.kind == "hvc" and device.values.get("to") == "stdio" for device in self.devices)

    @property
    def kernel_console(self) -> str:
        """The console of a Linux kernel whose command line the user does not give."""
        return "hvc0" if self.console == "none" and self._has_hvc_console else "ttyS0"

    @property
    def uses_stdio(self) -> bool:
        """Whether a console is on this process's standard input and output."""
        return self.console == "stdio" or self._stdio_ports > 0

    @property
    def memory_size(self) -> int:
        """Bytes of guest RAM in all."""
        return sum(part.size for part in self.memory)

    @property
    def shares_memory(self) -> bool:
        """Whether a device of another process must reach guest RAM."""
        return any(DEVICE_KINDS[device.kind].shares_memory or device.isolated for device in self.devices)

    @property
    def looked_at(self) -> bool:
        """Whether a device is to be traced, disturbed or recorded."""
        return bool(self.trace_device or self.inject or self.record)

    def replace(self, **keys: Unpack[AllConfigKeywords]) -> Config:
        """A copy with other values for *keys*, which are those of ``Config``; it is checked again.

        Devices that a keyword of their kind asks for are added; ``devices=[...]`` replaces the list.
        """
        mine: dict[str, Any] = {key: getattr(self, key) for key in Config.__slots__}
        return Config(**{**mine, **keys})

    @classmethod
    def from_toml(
        cls, path: str, *, untrusted: bool = False, **overrides: Unpack[AllConfigKeywords]
    ) -> Config:
        """Read board file *path*; *overrides*, keywords as above, win over its keys.

        Relative paths in the file are taken from its own folder. An *untrusted* file may name a kernel,
        an initrd and their like in that folder, a command line, memory and CPUs, and nothing else.
        Raises ConfigError for a file that cannot be read or is no board file.
        """
        from pyvmm.config.toml import read_toml

        return cls(**{**read_toml(path, untrusted), **overrides})


def _optional(check: Callable[[str, object], Value], key: str, value: object) -> Value | None:
    """*value* checked; None is None."""
    return None if value is None else check(key, value)
