"""fw_cfg by QEMU's docs/specs/fw_cfg.rst: selector, data, DMA, and descriptors of a hostile guest."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.board.device import Device
from pyvmm.devices import fwcfg
from pyvmm.devices.fwcfg import (
    CHUNK,
    DMA_BEHIND_END,
    DMA_ERROR,
    DMA_READ,
    DMA_SELECT,
    DMA_SKIP,
    DMA_WRITE,
    FwCfgPorts,
    FwCfgRegisters,
)

KEY, LARGE = 0x0005, 0x0011
ITEM = bytes(range(1, 21))
LARGE_ITEM = bytes(range(251)) * (2 * CHUNK // 251 + 1)
RAM, RAM_SIZE = 0x1_0000, 4 << 20
DESCRIPTOR, TARGET = RAM, RAM + 0x1000


class Memory:
    """Items and a stretch of RAM; counts what a transfer writes."""

    def __init__(self) -> None:
        self.ram = bytearray(RAM_SIZE)
        self.items: dict[int, bytes] = {0: b"QEMU", KEY: ITEM, LARGE: LARGE_ITEM}
        self.stored = 0
        self.asked: list[int] = []

    def item(self, key: int) -> bytes:
        self.asked.append(key)
        return self.items.get(key, b"")

    def load(self, address: int, size: int) -> bytes | None:
        at = address - RAM
        return bytes(self.ram[at : at + size]) if at >= 0 and at + size <= RAM_SIZE else None

    def store(self, address: int, data: bytes | memoryview) -> bool:
        at = address - RAM
        if at < 0 or at + len(data) > RAM_SIZE:
            return False
        self.ram[at : at + len(data)] = data
        self.stored += len(data)
        return True

    def describe(self, control: int, length: int, target: int = TARGET) -> None:
        self.ram[:16] = struct.pack(">IIQ", control, length, target)

    @property
    def control(self) -> int:
        return int.from_bytes(self.ram[:4], "big")

    def target(self, size: int) -> bytes:
        return bytes(self.ram[TARGET - RAM : TARGET - RAM + size])


class Registers:
    """What differs between the two sets of registers."""

    def __init__(self, device: Device, selector: int, order: str, data: int, dma: int) -> None:
        self.device, self.selector, self.order, self.data, self.dma = device, selector, order, data, dma

    def select(self, key: int) -> None:
        raw = key.to_bytes(2, self.order)  # type: ignore[arg-type]
        self.device.write(self.selector, 2, int.from_bytes(raw, "little"))

    def bytes(self, count: int) -> bytes:
        return bytes(self.device.read(self.data, 1) for _ in range(count))

    def transfer(self, address: int = DESCRIPTOR) -> None:
        for at, half in ((self.dma, address >> 32), (self.dma + 4, address & 0xFFFF_FFFF)):
            self.device.write(at, 4, int.from_bytes(half.to_bytes(4, "big"), "little"))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(params=["ports", "memory"])
def registers(request: pytest.FixtureRequest, memory: Memory) -> Registers:
    return made(request.param, memory)


def made(kind: str, memory: Memory) -> Registers:
    if kind == "ports":
        return Registers(FwCfgPorts(lambda: memory), 0, "little", 1, 4)
    return Registers(FwCfgRegisters(lambda: memory), 8, "big", 0, 16)


def test_signature_is_selected_at_first(registers: Registers) -> None:
    assert registers.bytes(4) == b"QEMU"
    assert registers.device.read(registers.dma, 4).to_bytes(4, "little") == b"QEMU"
    assert registers.device.read(registers.dma + 4, 4).to_bytes(4, "little") == b" CFG"


def test_item_when_selected_is_read_from_its_start_and_ends_in_zeroes(registers: Registers) -> None:
    for _ in range(2):
        registers.select(KEY)
        assert registers.bytes(len(ITEM)) == ITEM
    assert registers.bytes(3) == bytes(3)


@pytest.mark.parametrize("key", [0x6, 0x20, 0x3FFF, 0x8000, 0xBFFF, 0xFFFF])
def test_key_without_an_item_reads_as_zeroes(registers: Registers, key: int) -> None:
    registers.select(key)

    assert registers.bytes(8) == bytes(8)


def test_item_when_selected_for_writing_is_read_and_never_changes(registers: Registers) -> None:
    registers.select(KEY | fwcfg.WRITE_CHANNEL)
    registers.device.write(registers.data, 1, 0xEE)

    assert registers.bytes(len(ITEM)) == ITEM


@pytest.mark.parametrize("size", [2, 4, 8])
def test_data_register_in_memory_when_read_wide_has_the_bytes_in_their_order(
    memory: Memory, size: int
) -> None:
    registers = made("memory", memory)
    registers.select(KEY)

    assert registers.device.read(0, size).to_bytes(size, "little") == ITEM[:size]
    assert registers.bytes(1) == ITEM[size : size + 1]


def test_data_port_when_read_wide_is_a_byte_among_ones(memory: Memory) -> None:
    registers = made("ports", memory)
    registers.select(KEY)

    assert registers.device.read(0, 4) == 0xFFFF_00FF | ITEM[0] << 8
    assert registers.device.read(1, 2) == 0xFF00 | ITEM[1]


def test_selector_port_when_written_as_a_byte_stays_and_as_a_double_word_takes_its_word(
    memory: Memory,
) -> None:
    registers = made("ports", memory)
    registers.device.write(0, 1, KEY)
    assert registers.bytes(1) == b"Q"

    registers.device.write(0, 4, 0xABCD_0000 | KEY)
    assert registers.bytes(1) == ITEM[:1]


def test_source_when_nothing_is_selected_is_not_made() -> None:
    device = FwCfgPorts(lambda: pytest.fail("made"))
    device.read(4, 4)
    device.write(4, 4, 0)
    device.save()


# DMA


def test_transfer_when_it_selects_and_reads_copies_the_item(registers: Registers, memory: Memory) -> None:
    memory.describe(KEY << 16 | DMA_SELECT | DMA_READ, len(ITEM) + 4)
    memory.ram[TARGET - RAM : TARGET - RAM + 30] = b"\xee" * 30

    registers.transfer()

    assert memory.control == 0
    assert memory.target(len(ITEM) + 5) == ITEM + bytes(4) + b"\xee"


def test_transfer_when_it_reads_on_continues_where_the_data_register_was(
    registers: Registers, memory: Memory
) -> None:
    registers.select(KEY)
    registers.bytes(2)
    memory.describe(DMA_SKIP, 3)
    registers.transfer()
    memory.describe(DMA_READ, 4)
    registers.transfer()

    assert memory.target(4) == ITEM[5:9]
    assert registers.bytes(1) == ITEM[9:10]


def test_transfer_of_an_item_of_several_pieces_is_whole(registers: Registers, memory: Memory) -> None:
    memory.describe(LARGE << 16 | DMA_SELECT | DMA_READ, len(LARGE_ITEM))

    registers.transfer()

    assert memory.control == 0
    assert memory.target(len(LARGE_ITEM)) == LARGE_ITEM


def test_transfer_when_it_writes_fails(registers: Registers, memory: Memory) -> None:
    memory.describe(KEY << 16 | DMA_SELECT | DMA_WRITE, 4)

    registers.transfer()

    assert memory.control == DMA_ERROR


def test_transfer_by_eight_bytes_works_as_by_two_halves(memory: Memory) -> None:
    registers = made("memory", memory)
    memory.describe(KEY << 16 | DMA_SELECT | DMA_READ, 4)

    registers.device.write(16, 8, int.from_bytes(DESCRIPTOR.to_bytes(8, "big"), "little"))

    assert (memory.control, memory.target(4)) == (0, ITEM[:4])


@pytest.mark.parametrize("target", [0, RAM - 1, RAM + RAM_SIZE - 3, (1 << 64) - 4, (1 << 64) - 1])
def test_transfer_when_the_target_is_no_ram_fails(registers: Registers, memory: Memory, target: int) -> None:
    memory.describe(KEY << 16 | DMA_SELECT | DMA_READ, 4, target)

    registers.transfer()

    assert memory.control == DMA_ERROR
    assert memory.stored == 4  # the descriptor's control field alone


@pytest.mark.parametrize("address", [0, RAM - 8, RAM + RAM_SIZE - 15, (1 << 64) - 1, (1 << 64) - 16])
def test_transfer_when_the_descriptor_is_no_ram_does_nothing(
    registers: Registers, memory: Memory, address: int
) -> None:
    registers.transfer(address)

    assert memory.stored == 0


@pytest.mark.parametrize("key", [KEY, 0x77])
def test_transfer_of_four_gigabytes_of_zeroes_is_refused(
    registers: Registers, memory: Memory, key: int
) -> None:
    memory.describe(key << 16 | DMA_SELECT | DMA_READ, 0xFFFF_FFFF)

    registers.transfer()

    assert memory.control == DMA_ERROR
    assert memory.stored == 4


def test_transfer_onto_its_own_descriptor_is_carried_out_once(registers: Registers, memory: Memory) -> None:
    memory.items[KEY] = struct.pack(">IIQ", KEY << 16 | DMA_SELECT | DMA_READ, 16, DESCRIPTOR)
    memory.describe(KEY << 16 | DMA_SELECT | DMA_READ, 16, DESCRIPTOR)

    registers.transfer()

    assert memory.stored == 16 + 4
    assert memory.control == 0


def test_upper_half_of_an_address_counts_for_one_transfer(registers: Registers, memory: Memory) -> None:
    registers.transfer(1 << 40)
    memory.describe(KEY << 16 | DMA_SELECT | DMA_READ, 4)
    lower = int.from_bytes(DESCRIPTOR.to_bytes(4, "big"), "little")
    registers.device.write(registers.dma + 4, 4, lower)

    assert memory.target(4) == ITEM[:4]


def test_state_when_restored_reads_on(registers: Registers, memory: Memory) -> None:
    registers.select(KEY)
    registers.bytes(7)
    other = made("ports", memory)
    other.device.load(registers.device.save())

    assert other.bytes(2) == ITEM[7:9]
    registers.device.reset()
    assert registers.bytes(4) == b"QEMU"


@pytest.mark.parametrize(
    "state", [{}, {"registers": 1}, {"registers": [1, "x", 2]}, {"registers": [1, -1, 0]}]
)
def test_state_when_it_is_none_of_save_s_is_refused(registers: Registers, state: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        registers.device.load(state)


_descriptor = st.tuples(
    st.sampled_from([0, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE, 0xFFFF_FFFF])
    | st.builds(
        lambda key, bits: key << 16 | bits,
        st.sampled_from([0, KEY, LARGE, 0x4005, 0xFFFF]),
        st.integers(0, 31),
    ),
    st.sampled_from([0, 1, len(ITEM), CHUNK, DMA_BEHIND_END, DMA_BEHIND_END + 1, 0xFFFF_FFFF]),
    st.sampled_from([0, DESCRIPTOR, TARGET, RAM + RAM_SIZE - 8, (1 << 64) - 1]) | st.integers(0, 2**64 - 1),
)
_access = st.tuples(st.integers(0, 23), st.sampled_from([1, 2, 4, 8]), st.none() | st.integers(0, 2**64 - 1))


@given(
    st.sampled_from(["ports", "memory"]),
    st.lists(_access | _descriptor.map(lambda d: ("dma", *d)), max_size=12),
)
def test_any_accesses_and_descriptors_stay_in_ram_and_end(
    kind: str, steps: list[tuple[str, int, int, int] | tuple[int, int, int | None]]
) -> None:
    memory = Memory()
    registers = made(kind, memory)
    end = {"ports": fwcfg.PORTS_SIZE, "memory": fwcfg.REGISTERS_SIZE}[kind]
    for step in steps:
        before = memory.stored
        if step[0] == "dma":
            memory.describe(*step[1:])  # type: ignore[arg-type]
            registers.transfer()
            assert memory.stored - before <= max(map(len, memory.items.values())) + DMA_BEHIND_END + 4
        else:
            offset, size, value = step  # type: ignore[misc]
            if offset + size > end:  # type: ignore[operator]
                continue
            if value is None:
                assert 0 <= registers.device.read(offset, size) < 1 << 8 * size  # type: ignore[arg-type, operator]
            else:
                registers.device.write(offset, size, value & (1 << 8 * size) - 1)  # type: ignore[arg-type, operator]
    assert len(memory.ram) == RAM_SIZE
