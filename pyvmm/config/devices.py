"""The kinds of virtio devices, each declared once, and the options of one device as asked for.

A kind is a key of a board file, a keyword of ``Config`` and an option of ``pyvmm run`` and ``pyvmm device``.
The option parser, ``--help``, the board file reader, ``virtio/options.py`` and the pages in
``docs/reference/`` read ``DEVICE_KINDS``: a new kind is a row there, its maker, and a keyword in the
signature of ``Config``.
"""

from __future__ import annotations

from pyvmm.config.keys import CLASS, DEVICES, ENDPOINT, KEYS, PATH, Option, text, texts
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    #: The value of an option: a text, True for a key alone, the texts of one that may be given several times.
    OptionValue = str | bool | tuple[str, ...]


#: Values of a key that is off.
_OFF = (False, "off", "no", "false", "0")


class DeviceOptions:
    """One device as asked for: its kind and its options.

    :param kind: a key of ``DEVICE_KINDS``
    :param values: a text for ``key=value``, True for a key alone, a tuple of texts for one of the kind's
        ``lists``
    """

    __slots__ = ("kind", "values")

    def __init__(self, kind: str, values: Mapping[str, OptionValue]) -> None:
        self.kind = kind
        self.values = dict(values)

    @property
    def isolated(self) -> bool:
        """Whether it is a device of the user's that is to have a process of its own."""
        return self.kind == "device" and self.values.get("isolated", False) not in _OFF

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeviceOptions):
            return NotImplemented
        return (self.kind, self.values) == (other.kind, other.values)

    def __repr__(self) -> str:
        return f"DeviceOptions({self.kind!r}, {self.values!r})"


class DeviceKind(Option):
    """A kind of device.

    :param name: the option's name, such as ``vhost-user``; with ``_`` for ``-`` it is the key
    :param first: the key that the first item of ``FIRST,key=value`` is the value of; None: it has none
    :param maker: the module whose ``from_options(reader)`` makes the device; imported when one is made
    :param page: the page of ``docs/`` on it; empty for a kind without options
    :param paths: the keys whose values name files, and how: PATH, ENDPOINT, CLASS
    :param lists: the keys that may be given several times, as a list in a table
    :param shares_memory: another process serves it, so guest RAM must be shared memory
    :param ports: all devices of the kind are ports of one device: ``from_options`` gets them as a list
    :param host_objects: what it has on the host are ``HostObjects``, as old as the guest
    """

    __slots__ = ("first", "host_objects", "lists", "maker", "page", "paths", "ports", "shares_memory")

    def __init__(
        self,
        name: str,
        metavar: str,
        help: str,
        *,
        first: str | None,
        maker: str,
        page: str = "",
        many: bool = False,
        paths: Mapping[str, str] | None = None,
        lists: tuple[str, ...] = (),
        shares_memory: bool = False,
        ports: bool = False,
        host_objects: bool = False,
    ) -> None:
        super().__init__(name, metavar, help, many=many, group=DEVICES)
        self.first = first
        self.maker = maker
        self.page = page
        self.paths = paths or {}
        self.lists = lists
        self.shares_memory = shares_memory
        self.ports = ports
        self.host_objects = host_objects

    def parse(self, value: str) -> DeviceOptions:
        """The options in ``FIRST,key=value,flag``, as ``split`` reads it. Raises ConfigError."""
        kind, values = self.key, dict[str, "OptionValue"]()
        for n, item in enumerate(self.split(value)):
            key, equals, rest = item.partition("=")
            if n == 0 and self.first is not None and (not equals or not key.isidentifier()):
                key, equals, rest = self.first, "=", item
            if not key or (n == 0 and not item):
                raise ConfigError(f"{kind}: {value!r} has an empty word; write key=value,key=value")
            if key in self.lists and equals:
                values[key] = (*values.get(key, ()), rest)  # type: ignore[misc]
                continue
            if key in values:
                raise ConfigError(f"{kind}: {value!r} gives {key} twice; leave one of them out")
            values[key] = rest if equals else True
        return DeviceOptions(kind, values)

    def split(self, value: str) -> list[str]:
        """The items between the commas of *value*; a doubled comma is a comma.

        Where a key that names a file has a value that begins with a colon, all that follows the colon is the
        value: ``ro,path=:a,b.img``. That of FIRST becomes the first item.
        """
        items = value.replace(",,", "\0").split(",")
        for n, item in enumerate(items):
            key, _, rest = item.partition("=")
            if rest.startswith(":") and key in self.paths:
                literal = f"{key}=" + ",".join((rest[1:], *items[n + 1 :])).replace("\0", ",,")
                others = [each.replace("\0", ",") for each in items[:n]]
                return [literal, *others] if key == self.first else [*others, literal]
        return [item.replace("\0", ",") for item in items]

    def read(self, value: object) -> list[DeviceOptions]:
        """The devices that *value* asks for: a text, a table of options, true, or a list of these.

        False asks for none. Raises ConfigError.
        """
        found = []
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str):
                found.append(self.parse(text(self.key, item)))
            elif isinstance(item, dict):
                options = {key: self._option(key, option) for key, option in item.items()}
                found.append(DeviceOptions(self.key, options))
            elif item is True:
                found.append(DeviceOptions(self.key, {}))
            elif item is not False:
                raise ConfigError(f"{self.key}: {item!r} must be a text FIRST,key=value, a table, or true")
        return found

    def _option(self, key: str, value: object) -> OptionValue:
        """A value in a table of options. Raises ConfigError."""
        if key in self.lists:
            return texts(f"{self.key} {key}", value)
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{self.key}: {key} must be a text, a number, or true")
        return value if isinstance(value, bool) else str(value)


_KINDS = (
    DeviceKind(
        "device",
        "CLASS,...",
        "a device of your own: FILE.py:Class[,isolated][,argument=value...]",
        many=True,
        first="class",
        maker="pyvmm.virtio.user_device_options",
        page="guide/own-device.md",
        paths={"class": CLASS},
    ),
    DeviceKind(
        "disk",
        "PATH,...",
        "a disk image: PATH[,ro][,snapshot][,serial=TEXT]",
        many=True,
        first="path",
        maker="pyvmm.virtio.block.options",
        page="devices/block.md",
        paths={"path": PATH, "backing": PATH},
        lists=("backing",),
        host_objects=True,
    ),
    DeviceKind(
        "hvc",
        "WHERE,...",
        "a virtio console port: WHERE[,name=NAME][,port]; as --console, pipe:PATH",
        many=True,
        first="to",
        maker="pyvmm.virtio.console.options",
        page="devices/console.md",
        paths={"to": ENDPOINT},
        ports=True,
        host_objects=True,
    ),
    DeviceKind(
        "net",
        "TYPE[,..]",
        "a network card: user, tap, switch:NAME, link:PATH",
        many=True,
        first="type",
        maker="pyvmm.virtio.net.options",
        page="devices/net.md",
        paths={"type": ENDPOINT, "pcap": PATH},
        host_objects=True,
    ),
    DeviceKind("rng", "", "a virtio entropy device", first=None, maker="pyvmm.virtio.rng.options"),
    DeviceKind(
        "vsock",
        "CID,path=SOCKET",
        "guest sockets, by UNIX sockets SOCKET and SOCKET_PORT",
        first="cid",
        maker="pyvmm.virtio.vsock.options",
        page="devices/vsock.md",
        paths={"path": PATH},
        host_objects=True,
    ),
    DeviceKind(
        "balloon",
        "[OPTION,...]",
        "a balloon: target=SIZE, deflate-on-oom, stats=5s, reporting",
        first=None,
        maker="pyvmm.virtio.balloon.options",
        page="devices/balloon.md",
    ),
    DeviceKind(
        "share",
        "DIR[:TAG][,ro]",
        "a directory, for: mount -t virtiofs TAG PLACE",
        many=True,
        first="path",
        maker="pyvmm.virtio.fs.options",
        page="devices/fs.md",
        paths={"path": PATH},
        shares_memory=True,
        host_objects=True,
    ),
    DeviceKind(
        "vhost-user",
        "SOCKET,type=KIND",
        "a device that another process serves",
        many=True,
        first="socket",
        maker="pyvmm.virtio.vhost.options",
        page="devices/vhost.md",
        paths={"socket": PATH},
        shares_memory=True,
        host_objects=True,
    ),
)

#: Every kind by its key, in the order in which a machine gets its devices.
DEVICE_KINDS = {kind.key: kind for kind in _KINDS}


def unknown_key(key: str) -> str:
    """The sentence for a key that no machine has, such as one that is written as its option is."""
    known = sorted((*KEYS, *DEVICE_KINDS))
    meant = key.lower().replace("-", "_")
    what = f"write {meant}" if meant in known else f"the keys are {', '.join(known)}"
    return f"{key!r} is not a key of a machine; {what}"
