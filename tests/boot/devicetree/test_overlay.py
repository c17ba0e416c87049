"""Overlays, compared with what dtc's own fdtoverlay makes of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot.devicetree import DeviceTreeError, Tree, apply_overlay, pack, unpack
from tests.support.devicetree_tools import compiled, overlaid, source_of

BASE = """
/ {
    gic: intc { #interrupt-cells = <3>; };
    clk: clock { };
    bus: bus@0 {
        uart0: serial@1000 { status = "okay"; clocks = <&clk>; };
        leds { };
    };
};
"""
OVERLAYS = {
    "property": '/plugin/; &uart0 { status = "disabled"; speed = <115200>; };',
    "nodes": "/plugin/; &bus { sensor@2000 { reg = <0x2000>; interrupt-parent = <&gic>; deep { er; }; }; };",
    "local": "/plugin/; &bus { one: one { }; two { other = <&one 1>, <&one 2>; mixed = <&one &clk>; }; };",
    "path": "/plugin/; &{/bus@0/leds} { red { color = <1>; }; };",
    "two targets": "/plugin/; &uart0 { a; }; &clk { b = <&uart0>; d = <&c>; c: child { }; };",
}


def merged(base: bytes, *overlays: bytes) -> bytes:
    tree = unpack(base)
    for overlay in overlays:
        apply_overlay(tree, unpack(overlay))
    return pack(tree)


@pytest.mark.parametrize("name", sorted(OVERLAYS))
def test_overlay_when_applied_gives_what_fdtoverlay_gives(tmp_path: Path, name: str) -> None:
    base, overlay = compiled(BASE), compiled(OVERLAYS[name])

    assert source_of(merged(base, overlay)) == source_of(overlaid(tmp_path, base, overlay))


def test_overlays_when_applied_one_after_the_other_find_each_others_labels(tmp_path: Path) -> None:
    base, first = compiled(BASE), compiled(OVERLAYS["local"])
    second = compiled("/plugin/; &one { more = <&gic>; };")

    both = merged(base, first, second)

    assert source_of(both) == source_of(overlaid(tmp_path, base, first, second))


def test_overlay_when_it_labels_a_node_that_is_there_keeps_the_nodes_number() -> None:
    overlay = compiled("/plugin/; &bus { mine: serial@1000 { }; user { uart = <&mine>; }; };")

    tree = unpack(merged(compiled(BASE), overlay))

    uart, user = tree.find("/bus@0/serial@1000"), tree.find("/bus@0/user")
    before = unpack(compiled(BASE)).find("/bus@0/serial@1000")
    assert uart is not None and user is not None and before is not None
    assert user.cells("uart") == [uart.phandle] == [before.phandle]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/plugin/; &nobody { };", "label 'nobody'.*it has bus, clk, gic, uart0"),
        ("/plugin/; &{/no/where} { };", "'/no/where' is not in the device tree"),
        ("/ { a { }; };", "no overlay fragments"),
        ("/ { fragment@0 { target = <77>; __overlay__ { }; }; };", "'fragment@0' has no target"),
        ('/ { __fixups__ { gic = "rubbish"; }; };', "not path:property:offset"),
        ('/ { __fixups__ { gic = "/x:y:0"; }; };', "does not have"),
    ],
)
def test_overlay_when_it_does_not_fit_says_why(source: str, sentence: str) -> None:
    with pytest.raises(DeviceTreeError, match=sentence):
        merged(compiled(BASE), compiled(source))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(OVERLAYS)),
    st.lists(st.tuples(st.integers(40, 1000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_overlay_when_damaged_raises_only_device_tree_errors(
    name: str, damage: list[tuple[int, int]]
) -> None:
    blob = bytearray(CACHED.setdefault(name, compiled(OVERLAYS[name])))
    for at, value in damage:
        blob[at % len(blob)] = value

    with contextlib.suppress(DeviceTreeError):
        merged(CACHED.setdefault("base", compiled(BASE)), bytes(blob))


CACHED: dict[str, bytes] = {}


def test_overlay_when_its_reference_to_itself_is_too_high_for_any_node_is_refused() -> None:
    base, overlay = unpack(compiled(BASE)), unpack(compiled(OVERLAYS["local"]))
    node = overlay.root.children["fragment@0"].children["__overlay__"].children["two"]
    node.properties["other"] = b"\xff" * len(node.properties["other"])

    with pytest.raises(DeviceTreeError, match="number 0xffffffff"):
        apply_overlay(base, overlay)


def test_overlay_when_its_names_drive_a_terminal_is_refused_in_a_printable_sentence() -> None:
    base, overlay = unpack(compiled(BASE)), unpack(compiled(OVERLAYS["nodes"]))
    overlay.root.children["__fixups__"].set("gic", f"/\x1b[2J{'x' * 5000}:p:0")

    with pytest.raises(DeviceTreeError) as raised:
        apply_overlay(base, overlay)

    assert str(raised.value).isprintable() and len(str(raised.value)) < 400


def _fragments(count: int) -> tuple[Tree, Tree]:
    """An overlay with a fragment for each node, by its phandle."""
    base, overlay = Tree(), Tree()
    for n in range(count):
        base.root.add(f"node@{n:x}").set("phandle", n + 1)
        fragment = overlay.root.add(f"f{n:x}")
        fragment.set("target", n + 1)
        fragment.add("__overlay__")
    return base, overlay


def _labels(count: int) -> tuple[Tree, Tree]:
    """An overlay with a label in each of its fragments."""
    base, overlay = Tree(), Tree()
    symbols = overlay.root.add("__symbols__")
    for n in range(count):
        fragment = overlay.root.add(f"f{n:x}")
        fragment.set("target-path", "/")
        fragment.add("__overlay__")
        symbols.set(f"l{n:x}", f"/f{n:x}/__overlay__")
    return base, overlay


def _references(count: int) -> tuple[Tree, Tree]:
    """References to nodes without phandles, at as many places, whose unit addresses are left out."""
    base, overlay = Tree(), Tree()
    symbols, fixups = base.root.add("__symbols__"), overlay.root.add("__fixups__")
    fragment = overlay.root.add("f")
    fragment.set("target-path", "/")
    content = fragment.add("__overlay__")
    for n in range(count):
        base.root.add(f"node{n:x}@1")
        symbols.set(f"l{n:x}", f"/node{n:x}")
        content.add(f"user{n:x}@1").set("p", 0)
        fixups.set(f"l{n:x}", f"/f/__overlay__/user{n:x}:p:0")
    return base, overlay


@pytest.mark.parametrize("make", [_fragments, _labels, _references])
def test_overlay_of_many_parts_takes_no_time_that_grows_with_their_square(
    make: Callable[[int], tuple[Tree, Tree]],
) -> None:
    base, overlay = make(15_000)  # some 1 MiB, of the 2 that are taken

    begin = time.process_time()
    apply_overlay(base, overlay)

    assert time.process_time() - begin < 20  # 0.2 s; minutes where each looks through all


def test_overlay_with_many_references_in_a_property_writes_it_once() -> None:
    class Counted(dict[str, bytes]):
        written = 0

        def __setitem__(self, name: str, value: bytes) -> None:
            self.written += 1
            super().__setitem__(name, value)

    base, overlay = unpack(compiled(BASE)), Tree()
    fragment = overlay.root.add("fragment@0")
    fragment.set("target-path", "/")
    node = fragment.add("__overlay__")
    node.properties = counted = Counted(p=bytes(4000))
    places = "\0".join(f"/fragment@0/__overlay__:p:{4 * n}" for n in range(500))
    overlay.root.add("__fixups__").set("gic", places)
    local = overlay.root.add("__local_fixups__").add("fragment@0").add("__overlay__")
    local.set("p", *(2000 + 4 * n for n in range(500)))

    apply_overlay(base, overlay)

    gic = base.find("/intc")
    assert gic is not None and base.root.cells("p")[:500] == [gic.phandle] * 500
    assert counted.written == 2  # once for the tree's labels, once for its own
