"""Devices of one's own in a machine, and devices by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyvmm
from pyvmm.board.board import PlacementError
from pyvmm.devices.rtc import Mc146818
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.virtio.rng.device import Rng
from tests.support import programs
from tests.support.firmware_guest import PASSED

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


class Register(pyvmm.Device):
    """Keeps what is written, and reads as its last byte plus one."""

    name = "register"

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.closed = 0

    def read(self, offset: int, size: int) -> int:
        return self.written[-1][2] + 1 & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))

    def close(self) -> None:
        self.closed += 1


def test_device_when_added_at_a_port_hears_the_guest_and_is_closed_at_the_end(tmp_path: Path) -> None:
    # What is read goes to the next register, then the guest ends with 0.
    code = programs.outb(0x81, 0x41) + programs.inb(0x80) + b"\xba\x82\x00\xee" + programs.PASS
    device = Register()
    machine = programs.machine(tmp_path, code)

    placed = machine.add_device(device, port=0x80, size=4)

    assert machine.run().code == PASSED
    assert (placed.port, placed.size) == (0x80, 4)
    assert device.written == [(1, 1, 0x41), (2, 1, 0x42)]
    assert device.closed == 1


def test_device_when_added_with_an_interrupt_reaches_the_guest(tmp_path: Path) -> None:
    """The guest unmasks the interrupt controller's input 5, waits, and says which interrupt came."""
    base = 0x20
    handler = 0x1100
    program = (
        b"\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x70"  # xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
        + b"\xc7\x06%s%s" % (int.to_bytes((base + 5) * 4, 2, "little"), handler.to_bytes(2, "little"))
        + b"\xc7\x06%s\x00\x00" % int.to_bytes((base + 5) * 4 + 2, 2, "little")
        # mov byte [handler..]: mov al, 0; mov dx, 0x501; out dx, al
        + b"".join(
            b"\xc6\x06%s%c" % (int.to_bytes(handler + at, 2, "little"), byte)
            for at, byte in enumerate(b"\xb0\x09\xba\x01\x05\xee\xf4")
        )
        # ICW1 to ICW4, then only input 5 is unmasked
        + programs.outb(0x20, 0x11)
        + programs.outb(0x21, base, 0x04, 0x01, 0xDF)
        + programs.outb(0x80, 1)
        + b"\xfb\xf4\xeb\xfd"  # sti; hlt; again
    )

    class Caller(pyvmm.Device):
        name = "caller"

        def write(self, offset: int, size: int, value: int) -> None:
            self.line.pulse()

    machine = programs.machine(tmp_path, program)
    # GSI 5 is the generic event device's on this board: an I/O APIC input above it would not reach the PIC.
    machine.board.release("generic event device")

    placed = machine.add_device(Caller(), port=0x80, size=1, irq=5)

    assert placed.irq == 5
    assert machine.run().code == PASSED + 9


def test_device_when_added_without_a_place_or_an_interrupt_gets_free_ones(tmp_path: Path) -> None:
    with programs.machine(tmp_path, programs.PASS) as machine:
        placed = [machine.add_device(Register(), size=0x10, irq=True, name=f"number {n}") for n in range(2)]

        assert [each.address for each in placed] == [0xD000_0000, 0xD000_1000]
        assert placed[0].irq != placed[1].irq
        assert machine.mmio.find(0xD000_1004, 4) == (machine.devices["number 1"], 4)


def test_device_when_its_place_is_taken_is_refused_naming_both(tmp_path: Path) -> None:
    with programs.machine(tmp_path, programs.PASS) as machine:
        with pytest.raises(PlacementError, match=r"'register' overlaps .* 'COM1'"):
            machine.add_device(Register(), port=0x3FA, size=2)

        machine.add_device(Register(), port=0x80, size=2)
        assert "register" in machine.devices


def test_device_when_it_is_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    device = Rng()
    try:
        with (
            programs.machine(tmp_path, programs.PASS) as machine,
            pytest.raises(ConfigError, match=r"Machine\(devices="),
        ):
            machine.add_device(device, size=1)  # type: ignore[arg-type]
    finally:
        device.close()


def test_device_when_the_machine_runs_is_refused(tmp_path: Path) -> None:
    with programs.machine(tmp_path, programs.COUNT) as machine:
        machine.start()

        with pytest.raises(PyvmmError, match="before the machine starts"):
            machine.add_device(Register(), port=0x80, size=1)


def test_device_when_it_raises_ends_the_machine_with_the_name_it_was_given(tmp_path: Path) -> None:
    class Broken(pyvmm.Device):
        def write(self, offset: int, size: int, value: int) -> None:
            raise ValueError("no")

    machine = programs.machine(tmp_path, programs.outb(0x80, 1))
    machine.add_device(Broken(), port=0x80, size=1, name="toaster")

    ending = machine.run()

    assert (ending.code, ending.reason) == (6, "device")
    assert ending.detail.startswith("toaster failed in ")


def test_devices_are_found_by_name(tmp_path: Path) -> None:
    rng = Rng()
    config = pyvmm.Config(firmware=programs.rom(tmp_path, programs.PASS), memory="2M", console="none")
    with pyvmm.Machine(config, devices=[rng]) as machine:
        names = machine.devices

        assert isinstance(names["RTC"], Mc146818)
        assert names["rng0"] is rng
        assert {"COM1", "i8042 data", "debug exit"} <= set(names)


def test_name_that_no_device_has_is_a_key_error_with_those_there_are(tmp_path: Path) -> None:
    with programs.machine(tmp_path, programs.PASS) as machine, pytest.raises(KeyError) as caught:
        machine.devices["disk7"]

    assert str(caught.value).startswith("this machine has no device 'disk7'; it has COM1, ")
    assert isinstance(caught.value, ConfigError)
