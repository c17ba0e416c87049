"""The flattened form: what dtc reads of ours, what we read of dtc's, and what is wrong with the rest."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot.devicetree import DeviceTreeError, Node, Tree, pack, u64, unpack
from tests.support.devicetree_tools import compiled, source_of

SOURCE = """
/memreserve/ 0x1000 0x2000;
/ {
    #address-cells = <2>;
    model = "a board";
    flag;
    gic: intc@8000000 { reg = <0 0x8000000>; mac = [00 11 22]; list = "one", "two"; };
    bus { device@1 { reg = <1>; parent = <&gic>; }; empty { }; };
};
"""


def example() -> Tree:
    tree = Tree()
    tree.reservations.append((0x1000, 0x2000))
    tree.root.set("#address-cells", 2)
    tree.root.set("model", "a board")
    tree.root.set("flag")
    gic = tree.root.add("intc@8000000", "gic")
    gic.set("reg", u64(0x8000000))
    gic.set("mac", b"\x00\x11\x22")
    gic.set("list", "one", "two")
    bus = tree.root.add("bus")
    device = bus.add("device@1")
    device.set("reg", 1)
    device.set("parent", tree.refer(gic))
    bus.add("empty")
    tree.write_symbols()
    return tree


def same(one: Node, other: Node) -> bool:
    return (
        one.name == other.name
        and one.properties == other.properties
        and list(one.children) == list(other.children)
        and all(same(one.children[name], other.children[name]) for name in one.children)
    )


def test_pack_when_read_by_dtc_is_the_tree_that_dtc_makes() -> None:
    assert source_of(pack(example())) == source_of(compiled(SOURCE))


def test_unpack_when_given_what_dtc_made_is_the_tree() -> None:
    tree = unpack(compiled(SOURCE))

    assert tree.reservations == [(0x1000, 0x2000)]
    assert tree.root.text("model") == "a board"
    assert tree.root.properties["flag"] == b""
    gic = tree.find("/intc@8000000")
    assert gic is not None and tree.phandles()[gic.phandle] == ("/intc@8000000", gic)
    device = tree.find("/bus/device")
    assert device is not None and device.cells("parent") == [gic.phandle]


def test_unpack_when_the_version_is_16_reads_to_the_end_token() -> None:
    tree = unpack(compiled(SOURCE, "-V", "16"))

    assert same(tree.root, unpack(compiled(SOURCE)).root)


def test_pack_when_larger_than_kernels_take_is_refused() -> None:
    tree = Tree()
    tree.root.set("data", bytes(2 << 20))

    with pytest.raises(DeviceTreeError, match="make it smaller"):
        pack(tree)


NAMES = st.text("abcdefgh0123,._+-", min_size=1, max_size=12)


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> Node:
    node = Node()
    node.properties = draw(st.dictionaries(NAMES, st.binary(max_size=20), max_size=4))
    if depth:
        for name in draw(st.lists(NAMES, unique=True, max_size=3)):
            child = draw(nodes(depth - 1))
            child.name = name
            node.children[name] = child
    return node


@settings(max_examples=100, deadline=None)
@given(nodes(), st.lists(st.tuples(st.integers(1, 1 << 64 - 1), st.integers(0, 1 << 64 - 1)), max_size=3))
def test_unpack_when_given_what_pack_made_is_the_same_tree(
    root: Node, reservations: list[tuple[int, int]]
) -> None:
    tree = Tree()
    tree.root, tree.reservations = root, reservations

    found = unpack(pack(tree))

    assert same(found.root, root)
    assert found.reservations == reservations


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no device tree blob"),
        (b"/dts-v1/;\n/ { };", "source text; compile it with dtc"),
        (b"\xd0\x0d\xfe\xed", "cut short"),
        (pack(example())[:60], "cut short"),
        (pack(example())[:4] + b"\x7f" + pack(example())[5:], "at most"),
        (pack(example())[:20] + (3).to_bytes(4, "big") * 2 + pack(example())[28:], "version 3"),
    ],
    ids=["empty", "source", "magic", "cut", "huge", "version"],
)
def test_unpack_when_it_is_no_blob_says_what_it_is(data: bytes, sentence: str) -> None:
    with pytest.raises(DeviceTreeError, match=sentence):
        unpack(data)


def test_unpack_when_cut_at_every_length_raises_only_device_tree_errors() -> None:
    blob = pack(example())

    for length in range(len(blob)):
        with pytest.raises(DeviceTreeError):
            unpack(blob[:length])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.sampled_from([0, 1, 2, 3, 4, 9, 0x7F, 0xFF])),
        min_size=1,
        max_size=8,
    )
)
def test_unpack_when_damaged_raises_only_device_tree_errors(damage: list[tuple[int, int]]) -> None:
    blob = bytearray(pack(example()))
    for at, value in damage:
        blob[at % len(blob)] = value

    with contextlib.suppress(DeviceTreeError):
        pack(unpack(bytes(blob)))


def test_unpack_when_nested_too_deep_is_refused() -> None:
    tree = Tree()
    node = tree.root
    for _ in range(70):
        node = node.add("n")

    with pytest.raises(DeviceTreeError, match="nested deeper"):
        unpack(pack(tree))
