"""The types of ``Config``'s keywords, for type checkers and editors. Nothing imports this module at run time.

What passes keywords on to ``Config`` declares them so: ``**keys: Unpack[ConfigKeywords]``. A test compares
them with the signature of ``Config``, which has the defaults.
"""

from __future__ import annotations

from typing import TypedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyvmm.config.devices import DeviceOptions
    from pyvmm.config.memory import MemoryPart

    #: One device: ``"FIRST,key=value,flag"``, a table of the same keys, or true for one without options.
    DeviceValue = str | bool | Mapping[str, str | int | float | bool | Sequence[str]]
    #: The devices of a kind: one, or a list.
    DeviceValues = DeviceValue | Sequence[DeviceValue]
    MemoryValue = int | str | MemoryPart | Mapping[str, Any]


class ConfigKeywords(TypedDict, total=False):
    """All but ``devices``: that one is ``Guest``'s own, too, for devices that are made already."""

    name: str
    kernel: str | None
    modules: str | None
    firmware: str | None
    initrd: str | Sequence[str]
    cmdline: str | None
    virtio_cmdline: str
    memory: MemoryValue | Sequence[MemoryValue]
    cpus: int
    cpu: str
    console: str | None
    boot: str
    timeout: float | str | None
    on_reboot: str
    debug_exit: int | bool | None
    exec: str | None
    trace_device: str | Sequence[str]
    inject: str | Sequence[str]
    record: str | Sequence[str]
    ram_base: int | str | None
    firmware_base: int | str | None
    uart: str | None
    gic: str | None
    dtb: str | None
    dtb_overlay: str | Sequence[str]
    device: DeviceValues
    disk: DeviceValues
    hvc: DeviceValues
    net: DeviceValues
    rng: DeviceValues
    vsock: DeviceValues
    balloon: DeviceValues
    share: DeviceValues
    vhost_user: DeviceValues


class AllConfigKeywords(ConfigKeywords, total=False):
    """Every keyword of ``Config``."""

    devices: Sequence[DeviceOptions]
