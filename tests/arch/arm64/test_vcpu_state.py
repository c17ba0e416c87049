"""Whether an arm64 vCPU has halted, and the translation of the address that it is at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.arch.arm64.registers import REGISTERS
from pyvmm.arch.arm64.vcpu_state import kernel_place, stopped, translate
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous
from pyvmm.pykvm.const import KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED

RAM = 0x4000_0000
SIZE = 64 << 20
TABLES = RAM + (1 << 20)
PAGE = RAM + (8 << 20)
MASKED = 0x3C5  # PSTATE.D, A, I, F; EL1h
#: T1SZ and T0SZ of 48 bits; granules of 4, 16 and 64 KiB for either half.
CONTROL = {12: 2 << 30 | 0 << 14, 14: 1 << 30 | 2 << 14, 16: 3 << 30 | 1 << 14}


class FakeVcpu:
    """The registers of a vCPU, by name."""

    def __init__(self, state: int = KVM_MP_STATE_RUNNABLE, **registers: int) -> None:
        self.state = state
        self.registers = {REGISTERS[name]: value for name, value in registers.items()}

    def get_one_reg(self, identifier: int) -> int:
        return self.registers[identifier]

    def get_mp_state(self) -> int:
        return self.state


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    host = Anonymous(SIZE)
    memory = GuestMemory([Region(RAM, SIZE, host)])
    yield memory
    memory.close()
    host.close()


def vcpu(pc: int, pstate: int = MASKED) -> FakeVcpu:
    return FakeVcpu(PC=pc, PSTATE=pstate, SCTLR_EL1=0)


def test_vcpu_that_is_off_has_stopped(memory: GuestMemory) -> None:
    assert stopped(FakeVcpu(KVM_MP_STATE_STOPPED), memory)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "pstate", "expected"),
    [
        (0x14000000, MASKED, True),
        (0x14000000, 0x5, False),  # an interrupt would be taken
        (0xD503207F, MASKED, False),  # wfi: Linux is idle with interrupts masked
        (0x17FFFFFF, MASKED, False),  # b to the instruction before
    ],
)
def test_vcpu_that_branches_to_itself_with_interrupts_masked_has_stopped(
    memory: GuestMemory, code: int, pstate: int, expected: bool
) -> None:
    memory.write(PAGE, code.to_bytes(4, "little"))

    assert stopped(vcpu(PAGE, pstate), memory) == expected  # type: ignore[arg-type]


def test_vcpu_outside_memory_has_not_stopped(memory: GuestMemory) -> None:
    assert not stopped(vcpu(0x1000), memory)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "pstate", "place"),
    [
        (0xD503205F, 0x5, PAGE + 4),  # wfe, of a delay
        (0xD503205F, 0x0, None),  # user mode
        (0xD503207F, 0x5, None),  # wfi: idle
    ],
)
def test_place_in_a_kernel_is_that_of_a_vcpu_that_works_there(
    memory: GuestMemory, code: int, pstate: int, place: int | None
) -> None:
    memory.write(PAGE, code.to_bytes(4, "little"))

    assert kernel_place(vcpu(PAGE + 4, pstate), memory) == place  # type: ignore[arg-type]


def test_vcpu_that_is_off_is_at_no_place_of_a_kernel(memory: GuestMemory) -> None:
    assert kernel_place(FakeVcpu(KVM_MP_STATE_STOPPED, PSTATE=0x5), memory) is None  # type: ignore[arg-type]


def mapped(memory: GuestMemory, address: int, granule: int, bits: int, block: bool) -> FakeVcpu:
    """A vCPU whose tables map *address* to PAGE, by a page or by the smallest block."""
    stride = granule - 3
    shift = granule + (bits - granule - 1) // stride * stride
    last = granule + stride if block else granule
    table, offset = TABLES, address & (1 << bits) - 1
    while True:
        entry = table + 8 * (offset >> shift)
        offset &= (1 << shift) - 1
        if shift == last:
            value = PAGE & ~((1 << shift) - 1) | (1 if block else 3) | 0x0040_0000_0000_0700
            memory.write(entry, value.to_bytes(8, "little"))
            break
        table += 1 << granule
        memory.write(entry, (table | 3).to_bytes(8, "little"))
        shift -= stride
    size = 64 - bits
    return FakeVcpu(
        PC=address,
        PSTATE=MASKED,
        SCTLR_EL1=1,
        TCR_EL1=CONTROL[granule] | size << 16 | size,
        TTBR0_EL1=TABLES | 1 << 48,
        TTBR1_EL1=TABLES | 5 << 48 | 1,
    )


@pytest.mark.parametrize("granule", [12, 14, 16])
@pytest.mark.parametrize("bits", [39, 42, 47, 48])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("block", [False, True])
def test_address_is_translated_by_the_guests_tables(
    memory: GuestMemory, granule: int, bits: int, upper: bool, block: bool
) -> None:
    if block and granule != 12:
        pytest.skip("the smallest block is larger than this memory")
    address = (1 << 64) - (1 << bits - 1) + 0x1234_5678 if upper else 0x1234_5678
    cpu = mapped(memory, address, granule, bits, block)
    last = granule + (granule - 3 if block else 0)

    found = translate(cpu, memory, address)  # type: ignore[arg-type]

    assert found == PAGE & ~((1 << last) - 1) | address & (1 << last) - 1


@pytest.mark.parametrize("damage", [0, 0xFFFF_FFFF_FFFF_FFFF, 1])
def test_tables_that_lead_nowhere_give_no_address(memory: GuestMemory, damage: int) -> None:
    cpu = mapped(memory, 0x1234_5678, 12, 48, False)
    memory.write(TABLES + 8 * (0x1234_5678 >> 39), damage.to_bytes(8, "little"))

    found = translate(cpu, memory, 0x1234_5678)  # type: ignore[arg-type]

    assert found == -1 or not memory.contains(found, 4)
