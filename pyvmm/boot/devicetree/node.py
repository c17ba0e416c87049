"""A device tree in memory: nodes with properties, labels, phandles.

Devicetree Specification 0.4: section 2.2 (nodes, properties), 2.3.3 (phandle). Labels and
``__symbols__`` are the compiler's (dtc -@), which overlays refer to.
"""

from __future__ import annotations

from itertools import islice

from pyvmm.boot.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Value = int | str | bytes

PHANDLE = "phandle"
#: The older name of ``phandle``, still found in device trees.
LINUX_PHANDLE = "linux,phandle"
SYMBOLS = "__symbols__"
#: Not valid as phandles: 0 and this.
_PHANDLE_MAX = 0xFFFF_FFFF


class DeviceTreeError(ImageError):
    """A device tree, or an overlay, that is broken or does not fit the other."""


class Node:
    """One node: *name* with its unit address, properties as bytes, children by name, in order.

    Children are never removed.
    """

    __slots__ = ("_short", "_shortened", "children", "label", "name", "properties")

    def __init__(self, name: str = "", label: str = "") -> None:
        self.name = name
        self.label = label
        self.properties: dict[str, bytes] = {}
        self.children: dict[str, Node] = {}
        # Names of children by what stands before the unit address, of the first so many; None: of several.
        self._short: dict[str, str | None] = {}
        self._shortened = 0

    def set(self, name: str, *values: Value) -> None:
        """Set a property: numbers are cells of 32 bits, texts get their zero byte, bytes stay as they are.

        Without a value it is a flag. Raises OverflowError for a number of more than 32 bits.
        """
        self.properties[name] = b"".join(map(_encode, values))

    def add(self, name: str, label: str = "") -> Node:
        """A new child."""
        child = self.children[name] = Node(name, label)
        return child

    def child(self, name: str) -> Node:
        """The child of that name, made if there is none."""
        return self.children.get(name) or self.add(name)

    def named(self, name: str) -> Node | None:
        """The child of that name, whose unit address may be left out where one name fits."""
        found = self.children.get(name)
        if found is not None or "@" in name:
            return found
        if self._shortened < len(self.children):  # each child once, however often one is looked for
            for full in islice(self.children, self._shortened, None):
                short = full.partition("@")[0]
                self._short[short] = None if short in self._short else full
            self._shortened = len(self.children)
        full_name = self._short.get(name)
        return None if full_name is None else self.children[full_name]

    def cells(self, name: str) -> list[int]:
        """The property as numbers of 32 bits; empty where it is not there or no such list."""
        data = self.properties.get(name, b"")
        return [int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data) // 4 * 4, 4)]

    def text(self, name: str) -> str:
        """The property's first text; empty where there is none."""
        return self.properties.get(name, b"").partition(b"\0")[0].decode("ascii", "replace")

    @property
    def phandle(self) -> int:
        """The number others refer to the node by; 0 where it has none."""
        for name in (PHANDLE, LINUX_PHANDLE):
            if len(self.properties.get(name, b"")) == 4:
                return self.cells(name)[0]
        return 0

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """``(path, node)`` of this node and all below it, parents first; *path* is this one's."""
        yield path or "/", self
        for name, child in self.children.items():
            yield from child.walk(f"{path}/{name}")


class Tree:
    """A whole tree: the *root*, memory reservations ``(address, size)``, the boot CPU's number.

    Who gives a node a phandle in another way than by ``refer`` calls ``numbered``.
    """

    __slots__ = ("_handles", "boot_cpu", "reservations", "root")

    def __init__(self) -> None:
        self.root = Node()
        self.reservations: list[tuple[int, int]] = []
        self.boot_cpu = 0
        self._handles = 0

    def find(self, path: str) -> Node | None:
        """The node at *path*, such as ``/cpus/cpu@0``; a unit address may be left out where one name fits."""
        node: Node | None = self.root
        assert node is not None
        for name in filter(None, path.split("/")):
            node = node.named(name)
            if node is None:
                return None
        return node

    def refer(self, node: Node) -> int:
        """The phandle of *node*, which gets one if it has none. Raises DeviceTreeError."""
        if not node.phandle:
            self._handles = (self._handles or self.highest_phandle()) + 1
            if self._handles >= _PHANDLE_MAX:
                raise DeviceTreeError("the device tree has no phandle left; it numbers its nodes too high")
            node.set(PHANDLE, self._handles)
        return node.phandle

    def numbered(self) -> None:
        """Phandles were given, so the highest one in use is looked for again."""
        self._handles = 0

    def highest_phandle(self) -> int:
        """The highest phandle in use; 0 for none."""
        return max(node.phandle for _, node in self.root.walk())

    def phandles(self) -> dict[int, tuple[str, Node]]:
        """Path and node of each phandle; of the first of several."""
        found: dict[int, tuple[str, Node]] = {}
        for path, node in self.root.walk():
            if node.phandle:
                found.setdefault(node.phandle, (path, node))
        return found

    def write_symbols(self) -> None:
        """Give labelled nodes phandles and paths in ``/__symbols__`` for overlays. Raises DeviceTreeError."""
        labelled = [(path, node) for path, node in self.root.walk() if node.label]
        symbols = self.root.child(SYMBOLS)
        for path, node in labelled:
            self.refer(node)
            symbols.set(node.label, path)


def u64(value: int) -> bytes:
    """A number as two cells."""
    return value.to_bytes(8, "big")


def _encode(value: Value) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(4, "big")
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape") + b"\0"
    return value
