"""Overlays: compiled fragments of a device tree (dtbo), applied to a tree.

The form is dtc's (Documentation/dt-object-internal.txt of the dtc sources) and what Linux's
Documentation/devicetree/overlay-notes.rst describes: each child of the root with an
``__overlay__`` node is a fragment with a target; ``__fixups__`` lists the places that want a
label's phandle, ``__local_fixups__`` those that hold one of the overlay's own.
"""

from __future__ import annotations

from pyvmm.boot.devicetree.node import LINUX_PHANDLE, PHANDLE, SYMBOLS, DeviceTreeError, Node, Tree
from pyvmm.host.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OVERLAY = "__overlay__"
FIXUPS = "__fixups__"
LOCAL_FIXUPS = "__local_fixups__"
#: Characters of a name, and of a list of names, in an error.
_NAME_SHOWN, _NAMES_SHOWN = 120, 300


def apply_overlay(tree: Tree, overlay: Tree) -> None:
    """Apply *overlay* to *tree*; *overlay* cannot be used again.

    Raises DeviceTreeError; *tree* may be changed in part then.
    """
    _bind_labels(tree, overlay)
    phandles = tree.phandles()
    targets = [
        (f"/{name}/{OVERLAY}", fragment.children[OVERLAY], *_target(tree, phandles, fragment))
        for name, fragment in overlay.root.children.items()
        if OVERLAY in fragment.children
    ]
    if not targets:
        raise DeviceTreeError("this device tree has no overlay fragments; compile a source with /plugin/;")
    _renumber(tree, overlay, [(node, target) for _, node, _, target in targets])
    for _, node, _, target in targets:
        _merge(target, node)
    tree.numbered()
    _merge_symbols(tree, overlay, {source: path for source, _, path, _ in targets})


def _bind_labels(tree: Tree, overlay: Tree) -> None:
    """Write the phandles of the tree's labels where the overlay wants them."""
    fixups = overlay.root.children.get(FIXUPS)
    symbols = tree.root.children.get(SYMBOLS)
    references = _References(overlay)
    for label, data in fixups.properties.items() if fixups is not None else ():
        path = symbols.text(label) if symbols is not None else ""
        node = tree.find(path) if path.startswith("/") else None
        if node is None:
            known = ", ".join(sorted(symbols.properties)) if symbols is not None else "none"
            known, label = printable(known, _NAMES_SHOWN), printable(label, _NAME_SHOWN)
            raise DeviceTreeError(
                f"the overlay refers to the label {label!r}, which the device tree has not; it has {known}"
            )
        handle = tree.refer(node)
        for place in data.rstrip(b"\0").split(b"\0"):
            words = place.decode("ascii", "replace").rsplit(":", 2)
            if len(words) != 3 or not words[2].isdecimal():
                raise DeviceTreeError(
                    f"the overlay's fixup {place[:_NAME_SHOWN]!r} is not path:property:offset"
                )
            where, name, offset = words
            references.change(where, name, int(offset), lambda _, handle=handle: handle)  # type: ignore[misc]
    references.write()


def _target(tree: Tree, phandles: Mapping[int, tuple[str, Node]], fragment: Node) -> tuple[str, Node]:
    """Path and node that *fragment* goes to."""
    path = fragment.text("target-path")
    if path:
        node = tree.find(path)
        if node is not None:
            return path.rstrip("/"), node
        raise DeviceTreeError(f"the overlay's target {path[:_NAME_SHOWN]!r} is not in the device tree")
    handle = fragment.cells("target")
    found = phandles.get(handle[0]) if len(handle) == 1 else None
    if found is None:
        raise DeviceTreeError(
            f"the overlay's fragment {fragment.name[:_NAME_SHOWN]!r} has no target in the device tree; "
            "give it a label or a target-path that is there"
        )
    return found[0].rstrip("/"), found[1]


def _renumber(tree: Tree, overlay: Tree, fragments: list[tuple[Node, Node]]) -> None:
    """Give the overlay's nodes phandles free in *tree*; a node that is there already keeps its own."""
    numbers: dict[int, int] = {}
    for node, target in fragments:
        _match(node, target, numbers)
    shift = tree.highest_phandle()
    if shift + overlay.highest_phandle() >= 0xFFFF_FFFF:
        raise DeviceTreeError("the device tree and the overlay number their nodes too high to be joined")

    def renumbered(old: int) -> int:
        new = numbers.get(old, old + shift)
        if new >= 0xFFFF_FFFF:
            raise DeviceTreeError(
                f"the overlay refers to its node of number {old:#x}, and has none; it is broken"
            )
        return new

    references = _References(overlay)
    local = overlay.root.children.get(LOCAL_FIXUPS)
    for path, node in local.walk() if local is not None else ():
        for name in node.properties:
            for offset in node.cells(name):
                references.change(path, name, offset, renumbered)
    references.write()
    for _, node in overlay.root.walk():
        handle = node.phandle
        for name in (PHANDLE, LINUX_PHANDLE):
            if handle and name in node.properties:
                node.set(name, renumbered(handle))


def _match(node: Node, target: Node, numbers: dict[int, int]) -> None:
    if node.phandle and target.phandle:
        numbers[node.phandle] = target.phandle
    for name, child in node.children.items():
        if name in target.children:
            _match(child, target.children[name], numbers)


class _References:
    """Phandles in properties of *overlay* that change: a property is copied once, whatever it has of them."""

    def __init__(self, overlay: Tree) -> None:
        self._overlay = overlay
        self._changed: dict[tuple[int, str], tuple[Node, bytearray]] = {}

    def change(self, path: str, name: str, offset: int, number: Callable[[int], int]) -> None:
        """Put *number* of the phandle there in its place, by ``write``. Raises DeviceTreeError."""
        node = self._overlay.find(path)
        data = node.properties.get(name) if node is not None else None
        if node is None or data is None or offset + 4 > len(data):
            place = f"{path}:{name}:{offset}"
            raise DeviceTreeError(
                f"the overlay wants a reference at {printable(place, _NAME_SHOWN)}, which it does not have; "
                "it is broken"
            )
        key = id(node), name
        if key not in self._changed:
            self._changed[key] = node, bytearray(data)
        copy = self._changed[key][1]
        value = number(int.from_bytes(copy[offset : offset + 4], "big"))
        copy[offset : offset + 4] = value.to_bytes(4, "big")

    def write(self) -> None:
        for (_, name), (node, copy) in self._changed.items():
            node.properties[name] = bytes(copy)


def _merge(target: Node, node: Node) -> None:
    target.properties.update(node.properties)
    for name, child in node.children.items():
        _merge(target.child(name), child)


def _merge_symbols(tree: Tree, overlay: Tree, moved: Mapping[str, str]) -> None:
    """The overlay's labels, with the paths their nodes have now; *moved*: where each fragment's have gone."""
    symbols = overlay.root.children.get(SYMBOLS)
    for label in symbols.properties if symbols is not None else ():
        assert symbols is not None
        path = symbols.text(label)
        source = "/".join(path.split("/", 3)[:3])
        if source in moved:
            tree.root.child(SYMBOLS).set(label, moved[source] + path[len(source) :] or "/")
