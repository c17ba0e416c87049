"""From the words a user asks for a device with to the device.

``config`` has split them: a kind, and keys with texts (or true for a key alone). Here they get
their meaning; every error names the option and what it was given.
"""

from __future__ import annotations

from importlib import import_module

from pyvmm.errors import ConfigError
from pyvmm.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm.config import DeviceWords
    from pyvmm.virtio.device import VirtioDevice

#: The module of each kind, which has ``from_words(words) -> VirtioDevice``.
MODULES = {
    "device": "pyvmm.virtio.user_device",
    "disk": "pyvmm.virtio.block.device",
    "net": "pyvmm.virtio.net.options",
    "rng": "pyvmm.virtio.rng.device",
    "vsock": "pyvmm.virtio.vsock.device",
    "balloon": "pyvmm.virtio.balloon.device",
    "share": "pyvmm.virtio.fs.device",
    "vhost_user": "pyvmm.virtio.vhost.frontend",
}

_TRUE = ("on", "yes", "true", "1")
_FALSE = ("off", "no", "false", "0")


class Words:
    """The keys of one device, taken one by one; what is left over at the end is an error.

    *machine* is the name of the machine that the device is for.
    """

    def __init__(self, asked: DeviceWords, machine: str = "guest") -> None:
        self.kind = asked.kind
        self.machine = machine
        self._values = dict(asked.values)
        self._known: list[str] = []

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text; *default* when it was not given. Raises ConfigError for a key without a value."""
        self._known.append(key)
        value = self._values.pop(key, default)
        if value is True:
            raise self.error(f"{key} needs a value: {key}=...")
        return None if value is None else str(value)

    def need(self, key: str) -> str:
        """A text that must be given."""
        value = self.text(key)
        if not value:
            raise self.error(f"{key} is missing")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True for the key alone; on or off by value."""
        self._known.append(key)
        value = self._values.pop(key, default)
        if isinstance(value, bool):
            return value
        text = str(value)
        if text not in _TRUE + _FALSE:
            raise self.error(f"{key}={text} is neither on nor off")
        return text in _TRUE

    def number(self, key: str, default: int | None = None, low: int = 0, high: int = 1 << 63) -> int | None:
        """A whole number from *low* to *high*, decimal or 0x."""
        text = self.text(key)
        if text is None:
            return default
        try:
            value = int(text, 0)
        except ValueError:
            raise self.error(f"{key}={text} is not a number") from None
        if not low <= value <= high:
            raise self.error(f"{key}={text} must be from {low} to {high}")
        return value

    def size(self, key: str, default: int | None = None) -> int | None:
        """A number of bytes such as 64M."""
        text = self.text(key)
        return default if text is None else parse_size(text, f"--{self.kind} {key}")

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of *choices*."""
        text = self.text(key, default)
        if text is None or text not in choices:
            raise self.error(f"{key}={text or ''} is not offered; choose {', '.join(choices)}")
        return text

    def rest(self) -> dict[str, str | bool]:
        """All that was not taken yet, for a device whose keys are its own."""
        rest, self._values = self._values, {}
        return rest

    def error(self, what: str) -> ConfigError:
        """The error for something wrong with these words."""
        return ConfigError(f"--{self.kind.replace('_', '-')}: {what}")

    def finish(self) -> None:
        """Raise ConfigError for a key that nobody took."""
        if self._values:
            known = f"it knows {', '.join(self._known)}" if self._known else "it has no options"
            raise self.error(f"{next(iter(self._values))!r} is unknown; {known}")


def make_device(asked: DeviceWords, machine: str = "guest") -> VirtioDevice:
    """The device that was asked for. Raises ConfigError, or a StartError when this host cannot."""
    words = Words(asked, machine)
    device: VirtioDevice = import_module(MODULES[asked.kind]).from_words(words)
    try:
        words.finish()
    except ConfigError:
        device.close()
        raise
    return device


def make_devices(
    asked: Sequence[DeviceWords], on_quit: Callable[[], object] | None = None, machine: str = "guest"
) -> Iterator[VirtioDevice]:
    """The devices that were asked for, as by ``make_device``; every ``hvc`` is a port of one console.

    *on_quit* is called when the user ends the guest by a key on a console's terminal.
    """
    ports = [Words(one) for one in asked if one.kind == "hvc"]
    if ports:
        from pyvmm.virtio.console.device import from_words

        yield from_words(ports, on_quit)
    for one in asked:
        if one.kind != "hvc":
            yield make_device(one, machine)
