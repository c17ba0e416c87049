"""What a kernel's image can write, by the guest's page tables of either architecture."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pyvmm.arch.arm64 import vcpu_state as arm64
from pyvmm.arch.arm64.registers import REGISTERS
from pyvmm.arch.page_tables import PageTables
from pyvmm.arch.x86_64 import vcpu_state as x86_64
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous

MIB = 1 << 20
SIZE = 64 * MIB
TABLES = 8 * MIB
#: Where the image is: two blocks of 2 MiB of code, then data.
IMAGE = 16 * MIB
CODE, DATA, PAGES = IMAGE, IMAGE + 4 * MIB, IMAGE + 6 * MIB


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    host = Anonymous(SIZE)
    memory = GuestMemory([Region(0, SIZE, host)])
    yield memory
    memory.close()
    host.close()


def write(memory: GuestMemory, table: int, index: int, entry: int) -> None:
    memory.write_u64(TABLES + 0x1000 * table + 8 * index, entry)


def x86_tables(memory: GuestMemory, root: int = TABLES) -> None:
    """Linux's: code read-only, data in a block and, behind it, in the first and third of four pages."""
    memory.write_u64(root + 8 * 511, TABLES + 0x1000 | 0x63)
    write(memory, 1, 510, TABLES + 0x2000 | 0x63)
    for block, entry in enumerate((CODE | 0x1E1, CODE + 2 * MIB | 0x1E1, DATA | 0x1E3 | 1 << 63)):
        write(memory, 2, 8 + block, entry)
    write(memory, 2, 11, TABLES + 0x3000 | 0x63)
    for page, flags in enumerate((0x163, 0x161, 0x163, 0)):
        write(memory, 3, page, PAGES + 0x1000 * page | flags)


X86_DATA = [(DATA, PAGES + 0x1000), (PAGES + 0x2000, PAGES + 0x3000)]


def x86_vcpu(cr3: int, cr4: int = 0) -> SimpleNamespace:
    return SimpleNamespace(get_sregs=lambda: SimpleNamespace(cr3=cr3, cr4=cr4))


def test_data_of_a_kernel_on_x86_are_what_its_image_can_write(memory: GuestMemory) -> None:
    x86_tables(memory)

    assert x86_64.kernel_data(x86_vcpu(TABLES | 0x18), memory) == X86_DATA  # type: ignore[arg-type]


def test_data_of_a_kernel_on_x86_with_five_levels(memory: GuestMemory) -> None:
    x86_tables(memory)
    root = TABLES + 0x8000
    memory.write_u64(root + 8 * 511, TABLES | 0x63)

    assert x86_64.kernel_data(x86_vcpu(root, 1 << 12), memory) == X86_DATA  # type: ignore[arg-type]


@pytest.mark.parametrize("cr3", [0, SIZE])
def test_kernel_on_x86_that_has_left_long_mode_is_found_by_its_copy_below_1_mib(
    memory: GuestMemory, cr3: int
) -> None:
    x86_tables(memory, root=0x9C000)

    assert x86_64.kernel_data(x86_vcpu(cr3), memory) == X86_DATA  # type: ignore[arg-type]


def test_guest_on_x86_without_such_an_image_has_none(memory: GuestMemory) -> None:
    write(memory, 0, 0, TABLES + 0x1000 | 0x63)
    write(memory, 0, 511, SIZE | 0x63)

    assert x86_64.kernel_data(x86_vcpu(TABLES), memory) == []  # type: ignore[arg-type]


def arm64_vcpu(vectors: int, sctlr: int = 1) -> SimpleNamespace:
    values = {"SCTLR_EL1": sctlr, "VBAR_EL1": vectors, "TTBR1_EL1": TABLES | 1, "TTBR0_EL1": 0}
    values["TCR_EL1"] = 16 | 16 << 16 | 2 << 30
    return SimpleNamespace(get_one_reg={REGISTERS[name]: n for name, n in values.items()}.__getitem__)


def test_data_of_a_kernel_on_arm64_are_what_its_image_can_write(memory: GuestMemory) -> None:
    """Not what else is mapped beside it, such as modules."""
    virtual = 0xFFFF_8000_0800_0000
    write(memory, 0, 256, TABLES + 0x1000 | 3)
    write(memory, 1, 0, TABLES + 0x2000 | 3)
    for block, entry in enumerate((CODE | 0x781, CODE + 2 * MIB | 0x781, DATA | 0x701)):
        write(memory, 2, 64 + block, entry)
    write(memory, 2, 67, TABLES + 0x3000 | 3)
    for page, flags in enumerate((0x703, 0x783, 0x703, 0)):
        write(memory, 3, page, PAGES + 0x1000 * page | flags)
    write(memory, 2, 68, 32 * MIB | 0x701)
    vectors = virtual + 0x1800

    assert arm64.kernel_data(arm64_vcpu(vectors), memory) == X86_DATA  # type: ignore[arg-type]


@pytest.mark.parametrize(("vectors", "sctlr"), [(0, 1), (0xFFFF_8000_0800_0000, 1), (CODE, 0)])
def test_guest_on_arm64_without_such_an_image_has_none(memory: GuestMemory, vectors: int, sctlr: int) -> None:
    assert arm64.kernel_data(arm64_vcpu(vectors, sctlr), memory) == []  # type: ignore[arg-type]


def test_tables_that_name_themselves_cost_a_bounded_time(memory: GuestMemory) -> None:
    for index in range(512):
        write(memory, 0, index, TABLES | 0x63)
    tables = PageTables(memory, TABLES, 39, 12, lambda entry: bool(entry & 0x80), (1 << 52) - 1)

    assert len(list(tables.leaves(0, 1 << 48))) == 24_000
