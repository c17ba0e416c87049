"""Ports and memory-mapped registers from the guest's instruction to the device, and devices that fail."""

from __future__ import annotations

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
