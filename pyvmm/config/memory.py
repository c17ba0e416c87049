"""Guest RAM as asked for: its size, and the host objects it comes from."""

from __future__ import annotations

from pyvmm.config.keys import one_of, text
from pyvmm.errors import ConfigError
from pyvmm.units import parse_size

PAGE = 4096
MIN_MEMORY = 1 << 20
MAX_MEMORY = 1 << 46
BACKINGS = ("anonymous", "memfd", "hugetlb", "file")


class MemoryPart:
    """A part of guest RAM and the host object it comes from.

    :param size: bytes, a multiple of 4096
    :param backing: ``anonymous``, ``memfd``, ``hugetlb`` or ``file``
    :param path: the file of backing ``file``
    """

    __slots__ = ("backing", "path", "size")

    def __init__(self, size: int, backing: str = "anonymous", path: str | None = None) -> None:
        self.size = size
        self.backing = backing
        self.path = path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MemoryPart):
            return NotImplemented
        return (self.size, self.backing, self.path) == (other.size, other.backing, other.path)

    def __hash__(self) -> int:
        return hash((self.size, self.backing, self.path))

    def __repr__(self) -> str:
        path = "" if self.path is None else f", {self.path!r}"
        return f"MemoryPart({self.size}, {self.backing!r}{path})"


def memory_parts(key: str, value: object) -> tuple[MemoryPart, ...]:
    """The parts of *value*: a size, a part, or a list of these. Raises ConfigError naming *key*."""
    parts = value if isinstance(value, list | tuple) else [value]
    checked = tuple(_part(key, part) for part in parts)
    total = sum(part.size for part in checked)
    if not MIN_MEMORY <= total <= MAX_MEMORY:
        raise ConfigError(f"{key}: {total} bytes in all is out of range; give 1M to 64T")
    return checked


def _part(key: str, value: object) -> MemoryPart:
    if isinstance(value, MemoryPart):
        return value
    table = value if isinstance(value, dict) else {"size": value}
    unknown = set(table) - {"size", "backing", "path"}
    if unknown or "size" not in table:
        raise ConfigError(f"{key}: a part has size and, if you like, backing and path, not {value!r}")
    if isinstance(table["size"], bool) or not isinstance(table["size"], int | str):
        raise ConfigError(f"{key}: {table['size']!r} is not a size; write it like 256M or 4.5G")
    size = parse_size(table["size"], key)
    backing = one_of(f"{key} backing", table.get("backing", "anonymous"), BACKINGS)
    path = table.get("path")
    if (backing == "file") != (path is not None):
        raise ConfigError(f"{key}: a path goes with backing file, and only with it")
    if size % PAGE:
        raise ConfigError(
            f"{key}: {table['size']!r} is not a multiple of {PAGE} bytes; round it to whole pages"
        )
    return MemoryPart(size, backing, None if path is None else text(f"{key} path", path))
