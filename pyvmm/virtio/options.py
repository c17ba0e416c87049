"""From the options of a device, as asked for, to the device.

Each kind's maker, a module that ``DEVICE_KINDS`` names, has ``from_options(reader) -> VirtioDevice``: it
reads its options one by one, and an option that is left is an error.
"""

from __future__ import annotations

from importlib import import_module

from pyvmm.config.devices import DEVICE_KINDS
from pyvmm.errors import ConfigError
from pyvmm.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from pyvmm.backends.host_objects import HostObjects, Opened
    from pyvmm.config.devices import DeviceOptions
    from pyvmm.virtio.device import VirtioDevice

_TRUE = ("on", "yes", "true", "1")
_FALSE = ("off", "no", "false", "0")


class OptionReader:
    """Reads the options of one device by their keys; ``finish`` raises for one that was not read.

    :param options: the device as asked for
    :param machine: the name of the machine that the device is for
    :param host_objects: keeps what the device has on the host for the next machine's; None: there is none
    :param number: which of all the devices that were asked for it is
    """

    def __init__(
        self,
        options: DeviceOptions,
        machine: str = "guest",
        host_objects: HostObjects | None = None,
        number: int = 0,
    ) -> None:
        self.kind = options.kind
        self.machine = machine
        self._host_objects = host_objects
        self._number = number
        self._values = dict(options.values)
        self._known: list[str] = []

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text; *default* when it was not given. Raises ConfigError for a key without a value."""
        self._known.append(key)
        value = self._values.pop(key, default)
        if value is True:
            raise self.error(f"{key} needs a value: {key}=...")
        return None if value is None else str(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of one of the kind's ``lists``. Raises ConfigError for a key without a value."""
        self._known.append(key)
        value = self._values.pop(key, ())
        if not isinstance(value, tuple) or not all(value):
            raise self.error(f"{key} needs a value: {key}=...")
        return value

    def need(self, key: str) -> str:
        """A text that must be given. Raises ConfigError when it is missing or empty."""
        value = self.text(key)
        if not value:
            raise self.error(f"{key} is missing")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True for the key alone; on or off by value. Raises ConfigError for another value."""
        self._known.append(key)
        value = self._values.pop(key, default)
        if isinstance(value, bool):
            return value
        text = str(value)
        if text not in _TRUE + _FALSE:
            raise self.error(f"{key}={text} is neither on nor off")
        return text in _TRUE

    def number(self, key: str, default: int | None = None, low: int = 0, high: int = 1 << 63) -> int | None:
        """A whole number from *low* to *high*, decimal or 0x; *default* when it was not given.

        Raises ConfigError.
        """
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
        """A number of bytes such as 64M; *default* when it was not given. Raises ConfigError."""
        text = self.text(key)
        return default if text is None else parse_size(text, f"--{self.kind} {key}")

    def choice(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of *choices*. Raises ConfigError for another text."""
        text = self.text(key, default)
        if text is None or text not in choices:
            raise self.error(f"{key}={text or ''} is not offered; choose {', '.join(choices)}")
        return text

    def rest(self) -> dict[str, str | bool]:
        """All options that were not read yet, for a device whose keys are its own."""
        rest, self._values = self._values, {}
        return {key: value for key, value in rest.items() if not isinstance(value, tuple)}

    def open(self, what: str, make: Callable[[], Opened]) -> Opened:
        """What the device has on the host: what *make* returns, opened; *what* tells it from its others.

        Kept from the machine before where there was one, so all options are read before. The device calls
        ``close_unless_kept`` at its end. Raises ConfigError for an option that was not read, and what *make*
        and its ``open`` raise.
        """
        self.finish()
        if self._host_objects is not None:
            return self._host_objects.open((self._number, what), make)
        made = make()
        try:
            made.open()
        except BaseException:
            made.close()
            raise
        return made

    def error(self, what: str) -> ConfigError:
        """The error for something wrong with these options: the sentence names the kind."""
        return ConfigError(f"--{self.kind.replace('_', '-')}: {what}")

    def finish(self) -> None:
        """Raise ConfigError for an option that was not read."""
        if self._values:
            known = f"it knows {', '.join(self._known)}" if self._known else "it has no options"
            raise self.error(f"{next(iter(self._values))!r} is unknown; {known}")


def make_device(
    options: DeviceOptions,
    machine: str = "guest",
    host_objects: HostObjects | None = None,
    number: int = 0,
) -> VirtioDevice:
    """The device that was asked for, with what it has on the host opened; the parameters are OptionReader's.

    :param number: which of the config's devices it is, from 0

    Raises ConfigError, or a StartError when this host cannot.
    """
    reader = OptionReader(options, machine, host_objects, number)
    device: VirtioDevice = _maker(options.kind)(reader)
    try:
        reader.finish()
    except ConfigError:
        device.close()
        raise
    return device


def make_devices(
    devices: Sequence[DeviceOptions],
    on_quit: Callable[[], object] | None = None,
    machine: str = "guest",
    host_objects: HostObjects | None = None,
    kinds: Container[str] = DEVICE_KINDS,
) -> Iterator[VirtioDevice]:
    """The devices that were asked for, as by ``make_device``; every ``hvc`` is a port of one console.

    *on_quit* is called when the user ends the guest by a key on a console's terminal. Those that are not of
    *kinds* are left out.
    """
    for kind in DEVICE_KINDS.values():
        if kind.key not in kinds:
            continue
        ports = [
            OptionReader(options, machine, host_objects, number)
            for number, options in enumerate(devices)
            if kind.ports and options.kind == kind.key
        ]
        if ports:
            yield _maker(kind.key)(ports, on_quit)
    for number, options in enumerate(devices):
        if options.kind in kinds and not DEVICE_KINDS[options.kind].ports:
            yield make_device(options, machine, host_objects, number)


def _maker(kind: str) -> Callable[..., VirtioDevice]:
    maker: Callable[..., VirtioDevice] = import_module(DEVICE_KINDS[kind].maker).from_options
    return maker
