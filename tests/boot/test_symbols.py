"""Names of addresses out of ELF images: the right one, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot.symbols import symbol_at
from tests.support.images import CODE, MIB, elf, with_symbols

LABEL, OBJECT, FUNCTION = 0, 1, 2
VIRTUAL = 0xFFFF_FFFF_8000_0000
SYMBOLS = [
    ("second", 16 * MIB + 0x40, 0x10, FUNCTION),
    ("start", 16 * MIB, 0, LABEL),
    ("number", 16 * MIB + 0x48, 4, OBJECT),
    ("third", 16 * MIB + 0x60, 0x20, FUNCTION),
    ("first", 16 * MIB + 0x20, 0x10, FUNCTION),
    ("per_cpu", 0x1000, 0, LABEL),
]


def image(bits: int = 64, virtual: int = 0) -> bytes:
    symbols = [(name, value + virtual, size, kind) for name, value, size, kind in SYMBOLS]
    return with_symbols(elf([(16 * MIB, CODE * 4, 0x2000)], 16 * MIB, bits, virtual=virtual), symbols)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("offset", "name"),
    [
        (0, "start"),
        (0x1F, "start+0x1f"),
        (0x20, "first"),
        (0x2F, "first+0xf"),
        (0x30, ""),  # behind the function's end
        (0x4A, "second+0xa"),  # not the variable's
        (0x7F, "third+0x1f"),
        (0x1FFF, ""),
        (0x2000, ""),
        (-1, ""),
    ],
)
def test_symbol_is_the_code_symbol_that_the_address_lies_in(
    path: Path, bits: int, offset: int, name: str
) -> None:
    path.write_bytes(image(bits))

    assert symbol_at(str(path), 16 * MIB + offset) == name


def test_symbol_of_a_kernel_linked_high_is_found_by_both_addresses(path: Path) -> None:
    path.write_bytes(image(virtual=VIRTUAL))

    assert symbol_at(str(path), VIRTUAL + 16 * MIB + 0x24) == "first+0x4"
    assert symbol_at(str(path), 16 * MIB + 0x24) == "first+0x4"
    assert symbol_at(str(path), 0x2000) == ""


def test_symbols_when_compared_with_pyelftools_are_the_same(path: Path) -> None:
    path.write_bytes(image())
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        functions = [s for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"]

        assert {symbol_at(str(path), s["st_value"]) for s in functions} == {s.name for s in functions}
        assert len(functions) == 3


def test_name_when_it_is_not_printable_or_too_long_is_made_so(path: Path) -> None:
    symbols = [("a\x1b[2Jb", 16 * MIB, 0, LABEL), ("n" * 5000, 16 * MIB + 8, 0, LABEL)]
    path.write_bytes(with_symbols(elf([(16 * MIB, CODE, 0x2000)], 16 * MIB), symbols))

    assert symbol_at(str(path), 16 * MIB) == "a?[2Jb"
    assert symbol_at(str(path), 16 * MIB + 8) == "n" * 128


@pytest.mark.parametrize("data", [b"", b"\x7fELF", CODE, elf([(16 * MIB, CODE, 0x2000)], 16 * MIB)])
def test_file_without_symbols_names_nothing(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    assert symbol_at(str(path), 16 * MIB) == ""
    assert symbol_at(str(path.with_name("missing")), 16 * MIB) == ""
    assert symbol_at(str(path.parent), 16 * MIB) == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(image()) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_file_names_something_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    data = bytearray(image())
    for at, value in damage:
        data[at] = value
    path.write_bytes(data)

    assert len(symbol_at(str(path), 16 * MIB + 0x24)) < 200
