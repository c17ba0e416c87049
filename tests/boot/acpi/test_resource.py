"""Resource descriptors byte by byte against ACPI 6.5, section 6.4."""

from __future__ import annotations

import pytest

from pyvmm.boot.acpi import resource
from pyvmm.boot.acpi.aml import AmlError


def test_io_when_encoded_decodes_sixteen_bits_at_one_place() -> None:
    assert resource.io(0x3F8, 8).hex(" ") == "47 01 f8 03 f8 03 01 08"


@pytest.mark.parametrize(("base", "length"), [(0xFFFF, 2), (0x100, 0), (0x100, 256), (-1, 1)])
def test_io_when_out_of_range_is_refused(base: int, length: int) -> None:
    with pytest.raises(AmlError, match="I/O ports"):
        resource.io(base, length)


def test_irq_when_encoded_is_an_edge_in_the_mask() -> None:
    assert resource.irq(4).hex(" ") == "23 10 00 01"


@pytest.mark.parametrize("number", [-1, 16])
def test_irq_when_not_an_isa_interrupt_is_refused(number: int) -> None:
    with pytest.raises(AmlError, match="ISA interrupt"):
        resource.irq(number)


@pytest.mark.parametrize(
    ("edge", "shared", "flags"),
    [(True, False, 0x03), (True, True, 0x0B), (False, False, 0x01), (False, True, 0x09)],
)
def test_interrupt_when_encoded_says_trigger_and_sharing(edge: bool, shared: bool, flags: int) -> None:
    assert resource.interrupt(0x15, edge, shared) == bytes((0x89, 6, 0, flags, 1, 0x15, 0, 0, 0))


def test_interrupt_when_no_gsi_is_refused() -> None:
    with pytest.raises(AmlError, match="global system interrupt"):
        resource.interrupt(1 << 32, edge=True, shared=False)


def test_memory_when_it_ends_at_4_gib_is_32_bits_wide() -> None:
    assert resource.memory(0xFFFFF000, 0x1000).hex(" ") == "86 09 00 01 00 f0 ff ff 00 10 00 00"


def test_memory_when_it_crosses_4_gib_is_64_bits_wide() -> None:
    encoded = resource.memory(0xFFFFF000, 0x2000)

    assert encoded[:3] == b"\x8a\x2b\x00"
    assert len(encoded) == 3 + 43
    numbers = [int.from_bytes(encoded[6 + 8 * i : 14 + 8 * i], "little") for i in range(5)]
    assert numbers == [0, 0xFFFFF000, 0x100000FFF, 0, 0x2000]


@pytest.mark.parametrize(("base", "size"), [(0, 0), (-0x1000, 0x1000), ((1 << 64) - 0x1000, 0x1001)])
def test_memory_when_out_of_range_is_refused(base: int, size: int) -> None:
    with pytest.raises(AmlError, match="do not lie"):
        resource.memory(base, size)


def test_template_when_made_ends_with_an_end_tag() -> None:
    assert resource.template(resource.irq(4)) == b"\x11\x09\x0a\x06" + resource.irq(4) + b"\x79\x00"
