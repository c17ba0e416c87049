"""Ports and memory-mapped registers from the guest's instruction to the device, and devices that fail."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.board.device import Device
from pyvmm.board.space import DEVICE, MMIO, PORT
from pyvmm.errors import GuestError, StartError
from pyvmm.machine.ending import Ending
from pyvmm.machine.machine import Machine
from tests.support import programs
from tests.support.firmware_guest import PASSED, MemoryLike, Transcript
from tests.support.programs import INSB, INSW, OUTSB, OUTSW, PASS, inb, outb, string_io

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

PORT_BASE = 0xE0
BUFFER = 0x2000
COM1 = 0x3F8
#: Just behind 1 MiB of RAM, where real mode still reaches with segment 0xffff.
BEHIND_RAM = 0x100000
PATTERN = bytes(range(256)) * 4
#: mov ax, 0xffff; mov ds, ax
DS_BEHIND = bytes.fromhex("b8ffff 8ed8")
#: mov al, [0x10]; mov [0x10], al
READ_BEHIND, WRITE_BEHIND = bytes.fromhex("a01000"), bytes.fromhex("a21000")


class Failing(Device):
    """Raises what it was given."""

    name = "thermometer"

    def __init__(self, error: BaseException | None = None, answer: int = 0) -> None:
        self.error = error
        self.answer = answer

    def read(self, offset: int, size: int) -> int:
        if self.error is not None:
            raise self.error
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        if self.error is not None:
            raise self.error


def attach(machine: Machine, device: Device, space: int = PORT, base: int = PORT_BASE) -> None:
    window = machine.board.place(space, base, 4, device.name, DEVICE)
    {PORT: machine.ports, MMIO: machine.mmio}[space].attach(window, device)


def run(machine: Machine, device: Device, space: int = PORT, base: int = PORT_BASE) -> Ending:
    attach(machine, device, space, base)
    return machine.run()


def memory_at_end(machine: Machine, size: int) -> bytes:
    """Run, and give what lies in BUFFER when the guest has passed."""
    kept = []
    machine.at_end(lambda: kept.append(machine.memory.read(BUFFER, size)))
    assert machine.run().code == PASSED
    return kept[0]


class Counting(Device):
    """Gives 0, 1, 2, ... in whatever width is read."""

    name = "counter"

    def __init__(self) -> None:
        self.next = 0

    def read(self, offset: int, size: int) -> int:
        self.next += 1
        return (self.next - 1) % (1 << 8 * size)


def test_string_output_when_of_bytes_loses_nothing(tmp_path: Path) -> None:
    console = Transcript()
    code = string_io(OUTSB, COM1, BUFFER, 1000) + PASS
    machine = programs.machine(tmp_path, code, console)
    machine.memory.write(BUFFER, PATTERN)

    assert machine.run().code == PASSED
    assert console.data == PATTERN[:1000]


def test_string_output_when_of_words_reaches_the_device_in_order(tmp_path: Path) -> None:
    device = MemoryLike(4)
    machine = programs.machine(tmp_path, string_io(OUTSW, PORT_BASE, BUFFER, 500) + PASS)
    machine.memory.write(BUFFER, PATTERN)

    assert run(machine, device).code == PASSED
    sent = b"".join(value.to_bytes(2, "little") for _, _, value in device.writes)
    assert sent == PATTERN[:1000]


def test_string_input_when_of_bytes_fills_memory_in_order(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, string_io(INSB, PORT_BASE, BUFFER, 1000) + PASS)
    attach(machine, Counting())

    assert memory_at_end(machine, 1001) == PATTERN[:1000] + b"\0"


def test_string_input_when_of_words_fills_memory_in_order(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, string_io(INSW, PORT_BASE, BUFFER, 500) + PASS)
    attach(machine, Counting())

    wanted = b"".join(value.to_bytes(2, "little") for value in range(500))
    assert memory_at_end(machine, 1000) == wanted


def test_unclaimed_ports_when_touched_are_counted(tmp_path: Path) -> None:
    code = inb(0xE8) + outb(0xE8, 1, 2) + string_io(OUTSB, 0xE9, BUFFER, 10) + PASS
    machine = programs.machine(tmp_path, code)

    assert machine.run().code == PASSED
    assert (machine.ports.unclaimed_reads, machine.ports.unclaimed_writes) == (1, 12)
    assert machine.unclaimed_accesses == 13


def test_unclaimed_addresses_when_touched_are_counted(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, DS_BEHIND + READ_BEHIND + WRITE_BEHIND + PASS, memory="1M")

    assert machine.run().code == PASSED
    assert (machine.mmio.unclaimed_reads, machine.mmio.unclaimed_writes) == (1, 1)
    assert machine.unclaimed_accesses == 2


@pytest.mark.parametrize("value", [0, 5, 31, 32, 255])
def test_debug_exit_when_written_ends_with_32_and_the_low_bits(tmp_path: Path, value: int) -> None:
    ending = programs.machine(tmp_path, outb(0x501, value)).run()

    assert (ending.code, ending.reason, ending.known) == (32 + (value & 31), "debug-exit", "told")


@pytest.mark.parametrize("port", [0xF4, 0x501])
@pytest.mark.parametrize("opcode", [b"\xee", b"\xef", b"\x66\xef"], ids=["byte", "word", "double word"])
def test_debug_exit_when_written_in_any_width_has_the_low_byte(
    tmp_path: Path, port: int, opcode: bytes
) -> None:
    # mov dx, port; mov eax, 0x10; out dx, al or ax or eax
    code = b"\xba" + port.to_bytes(2, "little") + bytes.fromhex("66b810000000") + opcode
    assert programs.machine(tmp_path, code, debug_exit=port).run().code == 48


def test_debug_exit_when_it_is_behind_the_port_written_gets_its_byte(tmp_path: Path) -> None:
    # mov eax, 0x04030201; mov dx, 0x4ff; out dx, eax
    code = bytes.fromhex("66b801020304 baff04 66ef")
    assert programs.machine(tmp_path, code).run().code == 35


def test_access_when_it_crosses_into_another_device_reaches_both(tmp_path: Path) -> None:
    lower, upper = MemoryLike(1), MemoryLike(1)
    # mov eax, 0x04030201; mov dx, 0xdf; out dx, eax; in eax, dx; mov [BUFFER], eax
    code = bytes.fromhex("66b801020304 badf00 66ef 66ed 66a30020") + PASS
    machine = programs.machine(tmp_path, code)
    for port, device in ((PORT_BASE, lower), (PORT_BASE + 1, upper)):
        machine.ports.attach(machine.board.place(PORT, port, 1, f"device at {port:#x}"), device)

    assert memory_at_end(machine, 4) == bytes.fromhex("ff0203ff")
    assert (lower.writes, upper.writes) == ([(0, 1, 2)], [(0, 1, 3)])
    assert (machine.ports.unclaimed_reads, machine.ports.unclaimed_writes) == (1, 1)


def test_memory_access_when_it_crosses_a_page_reaches_both_devices(tmp_path: Path) -> None:
    devices = MemoryLike(0x1000), MemoryLike(0x1000)
    # mov eax, 0x04030201; mov [0x100d], eax; mov eax, [0x100d]; xor bx, bx; mov ds, bx; mov [BUFFER], eax
    # (a page's last three bytes and the next one's first)
    code = DS_BEHIND + bytes.fromhex("66b801020304 66a30d10 66a10d10 31db 8edb 66a30020") + PASS
    machine = programs.machine(tmp_path, code, memory="1M")
    for index, device in enumerate(devices):
        base = BEHIND_RAM + index * 0x1000
        machine.mmio.attach(machine.board.place(MMIO, base, 0x1000, f"page {index}"), device)

    assert memory_at_end(machine, 4) == bytes.fromhex("01020304")
    assert [size for device in devices for _, size, _ in device.writes] == [1, 2, 1]
    assert machine.unclaimed_accesses == 0


@pytest.mark.parametrize("value", [0, 0xFFFF_FFFF_FFFF_FFFF])
def test_registers_of_every_device_survive_accesses_of_any_width_across_their_ends(
    tmp_path: Path, value: int
) -> None:
    machine = programs.machine(tmp_path, PASS, rng=True)
    with machine:
        for bus, space in ((machine.ports, PORT), (machine.mmio, MMIO)):
            for window in machine.board.windows(space):
                if window.kind != DEVICE:
                    continue
                edges = {*range(window.base - 8, window.base + 8), *range(window.end - 8, window.end)}
                for address in sorted(edges):
                    for size in range(1, 9):
                        with suppress(GuestError):  # hardware that firmware is told not to use
                            assert 0 <= bus.read(address, size) < 1 << 8 * size
                            bus.write(address, size, value & (1 << 8 * size) - 1)


def test_debug_exit_when_set_elsewhere_answers_there(tmp_path: Path) -> None:
    code = outb(0x501, 9) + outb(0x502, 3)

    assert programs.machine(tmp_path, code, debug_exit=0x502).run().code == 35


def test_debug_exit_when_switched_off_ends_nothing(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, outb(0x501, 9) + outb(0x64, 0xFE), debug_exit=False)

    assert machine.run().reason == "reboot"


@pytest.mark.parametrize("code", [inb(PORT_BASE), outb(PORT_BASE, 1), string_io(INSB, PORT_BASE, BUFFER, 9)])
def test_device_when_it_raises_at_a_port_ends_the_machine_with_its_name(tmp_path: Path, code: bytes) -> None:
    machine = programs.machine(tmp_path, code + PASS)

    ending = run(machine, Failing(ValueError("mercury is out")))

    assert (ending.code, ending.reason) == (6, "device")
    assert "thermometer" in ending.detail and "mercury is out" in ending.detail
    assert isinstance(machine.error, ValueError)


@pytest.mark.parametrize("code", [READ_BEHIND, WRITE_BEHIND])
def test_device_when_it_raises_at_an_address_ends_the_machine_with_its_name(
    tmp_path: Path, code: bytes
) -> None:
    machine = programs.machine(tmp_path, DS_BEHIND + code + PASS, memory="1M")

    ending = run(machine, Failing(ZeroDivisionError("no scale")), MMIO, BEHIND_RAM)

    assert (ending.code, ending.reason) == (6, "device")
    assert "thermometer" in ending.detail and "no scale" in ending.detail


@pytest.mark.parametrize("answer", [-1, 256])
def test_device_when_its_answer_does_not_fit_ends_the_machine_with_its_name(
    tmp_path: Path, answer: int
) -> None:
    machine = programs.machine(tmp_path, inb(PORT_BASE) + PASS)

    ending = run(machine, Failing(answer=answer))

    assert ending.code == 6
    assert "thermometer" in ending.detail


def test_device_when_it_raises_an_error_of_ours_tells_its_sentence(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, inb(PORT_BASE) + PASS)

    ending = run(machine, Failing(StartError("the sensor's file is gone; bring it back")))

    assert ending.code == 6
    assert ending.detail == "thermometer failed: the sensor's file is gone; bring it back"


def test_device_when_it_refuses_the_guest_ends_with_code_5_and_its_sentence(tmp_path: Path) -> None:
    machine = programs.machine(tmp_path, inb(PORT_BASE) + PASS)

    ending = run(machine, Failing(GuestError("below absolute zero; ask for more")))

    assert (ending.code, ending.reason, ending.known) == (5, "unsupported", "told")
    assert ending.detail == "below absolute zero; ask for more"
    assert machine.error is None  # nobody's defect


@pytest.mark.parametrize("after", [programs.HALT, PASS], ids=["halts", "goes on"])
def test_device_when_it_raises_for_a_queued_write_ends_the_machine_with_its_name(
    tmp_path: Path, after: bytes
) -> None:
    class Broken(Transcript):
        def write(self, data: bytes) -> None:
            raise OSError(5, "the paper is jammed")

    machine = programs.machine(tmp_path, outb(COM1, 0x41) + after, Broken())

    ending = machine.run()

    assert (ending.code, ending.reason) == (6, "device"), ending
    assert "16550A serial port" in ending.detail and "jammed" in ending.detail
