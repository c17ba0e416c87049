"""The flattened form of a device tree: writing it, and reading one that a user gave.

Devicetree Specification 0.4, chapter 5: header (5.2), memory reservations (5.3), structure block
(5.4), strings block (5.5). Written as version 17; 16 and 17 are read.
"""

from __future__ import annotations

import struct

from pyvmm.boot.devicetree.node import DeviceTreeError, Node, Tree

MAGIC = b"\xd0\x0d\xfe\xed"
VERSION = 17
LAST_COMPATIBLE = 16
#: Bytes of a blob at most: Linux maps no more (Documentation/arm64/booting.rst).
MAX_SIZE = 2 << 20

FDT_BEGIN_NODE = 1
FDT_END_NODE = 2
FDT_PROP = 3
FDT_NOP = 4
FDT_END = 9

_HEADER = struct.Struct(">4s9I")
_PROPERTY = struct.Struct(">3I")
_RESERVATION = struct.Struct(">2Q")
_TOKEN = struct.Struct(">I")
#: Nesting at most: deeper than any board's, within Python's recursion limit.
_MAX_DEPTH = 64
_REMEDY = "compile it again with dtc"


def pack(tree: Tree) -> bytes:
    """The tree's blob, a multiple of 8 bytes long. Raises DeviceTreeError beyond 2 MiB."""
    body: list[bytes] = []
    strings: dict[str, int] = {}
    end = _write(tree.root, body, strings, 0)
    body.append(_TOKEN.pack(FDT_END))
    structure = b"".join(body)
    names = b"".join(name.encode() + b"\0" for name in strings)
    assert end == len(names)
    reservations = b"".join(_RESERVATION.pack(*entry) for entry in (*tree.reservations, (0, 0)))
    at_structure = _HEADER.size + len(reservations)
    at_strings = at_structure + len(structure)
    size = -(-(at_strings + len(names)) // 8) * 8
    if size > MAX_SIZE:
        raise DeviceTreeError(
            f"the device tree has {size} bytes, but kernels take {MAX_SIZE}; make it smaller"
        )
    head = _HEADER.pack(
        MAGIC,
        size,
        at_structure,
        at_strings,
        _HEADER.size,
        VERSION,
        LAST_COMPATIBLE,
        tree.boot_cpu,
        len(names),
        len(structure),
    )
    return (head + reservations + structure + names).ljust(size, b"\0")


def _write(node: Node, body: list[bytes], strings: dict[str, int], end: int) -> int:
    """Append *node*; *end* is where the strings block ends, before and (returned) after."""
    name = node.name.encode() + b"\0"
    body.append(_TOKEN.pack(FDT_BEGIN_NODE) + name + bytes(-len(name) % 4))
    for key, data in node.properties.items():
        at = strings.get(key)
        if at is None:
            at = strings[key] = end
            end += len(key.encode()) + 1
        body.append(_PROPERTY.pack(FDT_PROP, len(data), at) + data + bytes(-len(data) % 4))
    for child in node.children.values():
        end = _write(child, body, strings, end)
    body.append(_TOKEN.pack(FDT_END_NODE))
    return end


def unpack(data: bytes | memoryview) -> Tree:
    """The tree in a blob. Raises DeviceTreeError, saying what is wrong with it."""
    view = memoryview(data)
    if bytes(view[:4]) != MAGIC:
        source = bytes(view[:9]) == b"/dts-v1/;"
        what = "a device tree's source text" if source else "no device tree blob"
        remedy = "compile it with dtc" if source else "give a .dtb file, as dtc makes it"
        raise DeviceTreeError(f"this is {what}; {remedy}")
    if len(view) < _HEADER.size:
        raise _cut("header", _HEADER.size, len(view))
    _, size, structure, strings, reserved, version, compatible, cpu, names, length = _HEADER.unpack_from(view)
    if version < LAST_COMPATIBLE or compatible > VERSION:
        raise DeviceTreeError(
            f"the device tree blob has version {version}, compatible with {compatible}; give one of version "
            f"{LAST_COMPATIBLE} or {VERSION}, as dtc makes it"
        )
    if size > MAX_SIZE:
        raise DeviceTreeError(
            f"the device tree blob says it has {size} bytes; at most {MAX_SIZE} are possible"
        )
    if size > len(view):
        raise _cut("blob", size, len(view))
    if version < VERSION:
        length = size - structure  # the field came with version 17: FDT_END ends the block
    for what, at, extent, align in (
        ("structure block", structure, length, 4),
        ("strings block", strings, names, 1),
        ("memory reservations", reserved, _RESERVATION.size, 8),
    ):
        if at % align or at < _HEADER.size or at + extent > size:
            raise DeviceTreeError(
                f"the {what} at {at:#x} with {extent} bytes does not lie in the device tree blob; {_REMEDY}"
            )
    tree = Tree()
    tree.boot_cpu = cpu
    tree.reservations = _reservations(view[:size], reserved)
    tree.root = _Reader(view[structure : structure + length], bytes(view[strings : strings + names])).root()
    return tree


def _reservations(view: memoryview, at: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while at + _RESERVATION.size <= len(view):
        address, size = _RESERVATION.unpack_from(view, at)
        if not address and not size:
            return found
        found.append((address, size))
        at += _RESERVATION.size
    raise DeviceTreeError(f"the device tree's memory reservations have no end; {_REMEDY}")


class _Reader:
    """Reads one structure block."""

    def __init__(self, block: memoryview, strings: bytes) -> None:
        self._block = block
        self._strings = strings
        self._at = 0

    def root(self) -> Node:
        root: Node | None = None
        path: list[Node] = []
        while (token := self._token()) != FDT_END or path:
            if token == FDT_BEGIN_NODE:
                node = Node(self._name())
                if path:
                    self._enter(path, node)
                elif root is not None or node.name:
                    raise DeviceTreeError(f"the device tree has more than one root node; {_REMEDY}")
                else:
                    root = node
                path.append(node)
            elif token == FDT_END_NODE and path:
                path.pop()
            elif token == FDT_PROP and path:
                self._property(path[-1])
            elif token != FDT_NOP:
                raise DeviceTreeError(
                    f"the device tree has token {token:#x} at {self._at - 4:#x} of its structure block, "
                    f"which cannot stand there; {_REMEDY}"
                )
        if root is None:
            raise DeviceTreeError(f"the device tree has no root node; {_REMEDY}")
        return root

    def _enter(self, path: list[Node], node: Node) -> None:
        if not node.name or "/" in node.name:
            raise DeviceTreeError(f"the device tree has a node called {node.name!r}; {_REMEDY}")
        if node.name in path[-1].children:
            raise DeviceTreeError(f"the device tree has two nodes {node.name!r} in one place; {_REMEDY}")
        if len(path) >= _MAX_DEPTH:
            raise DeviceTreeError(f"the device tree is nested deeper than {_MAX_DEPTH} nodes; {_REMEDY}")
        path[-1].children[node.name] = node

    def _property(self, node: Node) -> None:
        length, at = self._take(8)
        start, end = self._at, self._at + length
        if end > len(self._block):
            raise _cut("structure block", end, len(self._block))
        stop = self._strings.find(b"\0", at)
        if at >= len(self._strings) or stop < 0 or stop == at:
            raise DeviceTreeError(f"a property of node {node.name or '/'!r} has no name; {_REMEDY}")
        name = _ascii(self._strings[at:stop])
        if name in node.properties:
            raise DeviceTreeError(f"node {node.name or '/'!r} has two properties {name!r}; {_REMEDY}")
        node.properties[name] = bytes(self._block[start:end])
        self._at = -(-end // 4) * 4

    def _token(self) -> int:
        if self._at + 4 > len(self._block):
            raise DeviceTreeError(f"the device tree's structure block has no end; {_REMEDY}")
        self._at += 4
        return int(_TOKEN.unpack_from(self._block, self._at - 4)[0])

    def _take(self, size: int) -> tuple[int, int]:
        if self._at + size > len(self._block):
            raise _cut("structure block", self._at + size, len(self._block))
        self._at += size
        first, second = struct.unpack_from(">2I", self._block, self._at - size)
        return first, second

    def _name(self) -> str:
        start = self._at
        for end in range(start, min(start + 256, len(self._block))):
            if not self._block[end]:
                self._at = -(-(end + 1) // 4) * 4
                return _ascii(bytes(self._block[start:end]))
        raise DeviceTreeError(f"a node's name at {start:#x} of the structure block has no end; {_REMEDY}")


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise DeviceTreeError(
            f"the device tree has the name {data!r}, which is not ASCII; {_REMEDY}"
        ) from None


def _cut(what: str, needed: int, there: int) -> DeviceTreeError:
    return DeviceTreeError(
        f"the device tree's {what} needs {needed} bytes, but there are {there}; the file is cut short"
    )
