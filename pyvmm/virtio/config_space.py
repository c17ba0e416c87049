"""A device's configuration space, declared by its fields. Section 2.5."""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: The widths of the number types; ``bytesN`` is N plain bytes.
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


class ConfigSpace:
    """Little-endian fields one after the other, without padding: what the specification's structures need.

    :param fields: name to type: ``u8``, ``u16``, ``u32``, ``u64``, or ``bytesN``
    :param writable: the names of those the driver may write

    Fields are attributes: numbers, or bytes. Setting one does not tell the driver;
    ``VirtioDevice.config_changed`` does. Raises ValueError for a type that is none, OverflowError for a
    number too wide.
    """

    __slots__ = ("_changing", "_fields", "_mirrored", "_state", "_writable")

    def __init__(self, fields: Mapping[str, str], writable: frozenset[str] = frozenset()) -> None:
        places: dict[str, tuple[int, int, bool]] = {}
        at = 0
        for name, kind in fields.items():
            plain = kind.startswith("bytes") and kind[5:].isdigit()
            if not plain and kind not in WIDTHS:
                raise ValueError(f"{name}: {kind!r} is none of u8, u16, u32, u64, bytesN")
            size = int(kind[5:]) if plain else WIDTHS[kind]
            places[name] = (at, size, plain)
            at += size
        may_write = bytearray(at)
        for name in writable:
            start, size, _ = places[name]
            may_write[start : start + size] = b"\1" * size
        self._fields = places
        # Generation and bytes, replaced at once: a reader sees both old or both new.
        self._state = (0, bytes(at))
        self._changing = allocate_lock()
        self._mirrored: tuple[memoryview, memoryview] | None = None
        self._writable = bytes(may_write)

    def __len__(self) -> int:
        return len(self._writable)

    @property
    def generation(self) -> int:
        """Counts the device's changes, so that the driver can tell a torn read (2.5.3)."""
        return self._state[0]

    def __getattr__(self, name: str) -> Any:
        try:
            at, size, plain = self._fields[name]
        except KeyError:
            raise AttributeError(name) from None
        data = self._state[1][at : at + size]
        return data if plain else int.from_bytes(data, "little")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ConfigSpace.__slots__:
            object.__setattr__(self, name, value)
            return
        try:
            at, size, plain = self._fields[name]
        except KeyError:
            raise AttributeError(f"{name!r} is not a field of this configuration space") from None
        data = bytes(value).ljust(size, b"\0") if plain else int(value).to_bytes(size, "little")
        if len(data) != size:
            raise OverflowError(f"{name} has {size} bytes, not {len(data)}")
        with self._changing:
            generation, old = self._state
            self._replace(generation + 1, old[:at] + data + old[at + size :])

    def read(self, offset: int, size: int) -> bytes:
        """What the driver reads: zeroes past the end."""
        return self._state[1][offset : offset + size].ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> bool:
        """What the driver writes: only whole and into writable fields; False when nothing was stored."""
        end = offset + len(data)
        if end > len(self) or not all(self._writable[offset:end]):
            return False
        with self._changing:
            generation, old = self._state
            self._replace(generation, old[:offset] + data + old[end:])
        return True

    def fields(self) -> dict[str, Any]:
        """Every field's name and value."""
        return {name: getattr(self, name) for name in self._fields}

    def place(self, name: str) -> tuple[int, int]:
        """(offset, size) of field *name*."""
        at, size, _ = self._fields[name]
        return at, size

    def restore(self, data: bytes) -> None:
        """Set all bytes to *data*, what ``read`` of all returned. Raises ValueError for another length."""
        if len(data) != len(self):
            raise ValueError(f"{len(data)} bytes for a configuration space of {len(self)}")
        with self._changing:
            self._replace(self.generation + 1, bytes(data))

    def mirror(self, data: memoryview, generation: memoryview) -> None:
        """Keep a copy of the bytes in *data* and of the generation, 32 bits, in *generation*[0]."""
        with self._changing:
            self._mirrored = data, generation
            self._replace(*self._state)

    def _replace(self, generation: int, data: bytes) -> None:
        self._state = generation, data = generation & 0xFFFF_FFFF, data
        if self._mirrored is not None:
            # A driver that reads both between these two stores is interrupted for the change afterwards.
            self._mirrored[0][: len(data)] = data
            self._mirrored[1][0] = generation
