"""The AML encoder against the grammar of ACPI 6.5, chapter 20; decoders here are written from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.acpi import aml
from pyvmm.boot.acpi.aml import AmlError

SEGMENTS = st.from_regex(r"[A-Z_][A-Z0-9_]{0,3}", fullmatch=True)


def decode_pkg_length(data: bytes) -> tuple[int, int]:
    """(length told, bytes it takes), 20.2.4."""
    lead = data[0]
    count = lead >> 6
    if count == 0:
        return lead & 0x3F, 1
    assert lead & 0x30 == 0, "bits 4 and 5 are reserved when bytes follow"
    length = lead & 0x0F
    for position in range(count):
        length += data[1 + position] * 2 ** (4 + 8 * position)
    return length, 1 + count


def decode_name(data: bytes) -> tuple[str, int]:
    """(name with its prefix, bytes it takes), 20.2.2."""
    at = 0
    while data[at : at + 1] in (b"\\", b"^"):
        at += 1
    prefix = data[:at].decode()
    if data[at] == 0x00:
        return prefix, at + 1
    if data[at] == 0x2E:
        count, at = 2, at + 1
    elif data[at] == 0x2F:
        count, at = data[at + 1], at + 2
    else:
        count = 1
    names = [data[at + 4 * i : at + 4 * i + 4].decode() for i in range(count)]
    return prefix + ".".join(names), at + 4 * count


@given(st.one_of(st.integers(0, 70), st.integers(4080, 4110), st.integers(0, (1 << 28) - 5)))
def test_pkg_length_when_decoded_counts_itself_and_the_body(body: int) -> None:
    encoded = aml.pkg_length(body)

    length, taken = decode_pkg_length(encoded)

    assert taken == len(encoded)
    assert length == body + taken


@given(st.integers(0, (1 << 20) + 10))
def test_pkg_length_when_decoded_is_the_shortest_form(body: int) -> None:
    taken = len(aml.pkg_length(body))

    limits = {1: 0x40, 2: 0x1000, 3: 0x100000, 4: 0x10000000}
    assert body + taken < limits[taken]
    assert taken == 1 or body + taken - 1 >= limits[taken - 1]


def test_pkg_length_when_body_reaches_the_limit_is_refused() -> None:
    assert decode_pkg_length(aml.pkg_length((1 << 28) - 5)) == ((1 << 28) - 1, 4)
    with pytest.raises(AmlError, match="268435456 bytes"):
        aml.pkg_length((1 << 28) - 4)


@given(st.sampled_from(["", "\\", "^", "^^^"]), st.lists(SEGMENTS, max_size=8))
def test_path_when_decoded_is_what_was_written(prefix: str, segments: list[str]) -> None:
    encoded = aml.path(prefix + ".".join(segments))

    assert decode_name(encoded) == (
        prefix + ".".join(segment.ljust(4, "_") for segment in segments),
        len(encoded),
    )


@pytest.mark.parametrize("bad", ["0ABC", "ABCDE", "abc", "A-B", "A..B", "A.", "\\\\A", "A B"])
def test_path_when_malformed_is_refused(bad: str) -> None:
    with pytest.raises(AmlError, match="ACPI name"):
        aml.path(bad)


def test_path_when_longer_than_255_segments_is_refused() -> None:
    with pytest.raises(AmlError, match="256 segments"):
        aml.path(".".join(["A"] * 256))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x10000, "0c00000100"),
        (0xFFFFFFFF, "0cffffffff"),
        (1 << 32, "0e0000000001000000"),
        ((1 << 64) - 1, "0effffffffffffffff"),
    ],
)
def test_integer_when_encoded_is_the_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integer_when_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(AmlError, match="ACPI integer"):
        aml.integer(value)


def test_eisaid_when_encoded_has_letters_then_digits_most_significant_first() -> None:
    # PNP0A03 is 0x030AD041 in the specification's own example.
    assert aml.eisaid("PNP0A03") == b"\x0c" + (0x030AD041).to_bytes(4, "little")


@pytest.mark.parametrize("text", ["PNP050", "pnp0501", "PNP050G", "ACPI0007", "PN10501"])
def test_eisaid_when_not_of_the_form_is_refused(text: str) -> None:
    with pytest.raises(AmlError, match="EISA"):
        aml.eisaid(text)


def test_hid_when_not_an_eisa_identifier_is_a_string() -> None:
    assert aml.hid("LNRO0005") == b"\x0dLNRO0005\x00"
    assert aml.hid("PNP0501") == aml.eisaid("PNP0501")


@pytest.mark.parametrize("text", ["a\0b", "\u00fcber"])
def test_string_when_not_plain_ascii_is_refused(text: str) -> None:
    with pytest.raises(AmlError, match="ACPI string"):
        aml.string(text)


def test_buffer_when_encoded_tells_its_size_before_the_bytes() -> None:
    assert aml.buffer(b"abc") == b"\x11\x06\x0a\x03abc"


def test_package_when_given_more_than_255_elements_is_refused() -> None:
    assert aml.package(*[aml.integer(0)] * 255)[3] == 255
    with pytest.raises(AmlError, match="256 elements"):
        aml.package(*[aml.integer(0)] * 256)


def test_method_when_given_more_than_seven_arguments_is_refused() -> None:
    with pytest.raises(AmlError, match=r"_EVT.*8 arguments"):
        aml.method("_EVT", 8)


@given(st.integers(1, (1 << 28) - 1))
def test_field_when_decoded_gives_the_width_not_counting_itself(bits: int) -> None:
    encoded = aml.field("REGN", aml.DWORD_ACC, ("UNIT", bits))

    _, taken = decode_pkg_length(encoded[2:])
    unit = encoded[2 + taken + 4 + 1 :]
    assert unit[:4] == b"UNIT"
    assert decode_pkg_length(unit[4:]) == (bits, len(unit) - 4)


def test_field_when_wider_than_a_length_holds_is_refused() -> None:
    with pytest.raises(AmlError, match="268435456 bits"):
        aml.field("REGN", aml.BYTE_ACC, ("UNIT", 1 << 28))
