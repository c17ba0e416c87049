"""PM1 control registers and Bochs' shutdown port."""

from __future__ import annotations

import pytest

from pyvmm.devices.power_ports import SCI_EN, SHUTDOWN, SLP_EN, Pm1Control, ShutdownPort

QEMU_OFF = 0x2000
VIRTUALBOX_OFF = 0x3400


@pytest.fixture
def offs() -> list[str]:
    return []


@pytest.fixture
def control(offs: list[str]) -> Pm1Control:
    return Pm1Control(lambda: offs.append("off"))


@pytest.fixture
def port(offs: list[str]) -> ShutdownPort:
    return ShutdownPort(lambda: offs.append("off"))


@pytest.mark.parametrize("value", [QEMU_OFF, VIRTUALBOX_OFF, QEMU_OFF | SCI_EN])
def test_control_when_a_board_s_off_is_written_switches_off(
    control: Pm1Control, offs: list[str], value: int
) -> None:
    control.write(0, 2, value)

    assert offs == ["off"]
    assert control.read(0, 2) & SLP_EN == 0


def test_control_when_written_by_bytes_switches_off_with_the_upper_one(
    control: Pm1Control, offs: list[str]
) -> None:
    control.write(0, 1, 0x00)
    assert offs == []
    control.write(1, 1, QEMU_OFF >> 8)
    assert offs == ["off"]


@pytest.mark.parametrize("value", [0, SCI_EN, 0x1400, SLP_EN | 1 << 10, 0xFFFF & ~SLP_EN])
def test_control_when_anything_else_is_written_goes_on(
    control: Pm1Control, offs: list[str], value: int
) -> None:
    control.write(0, 2, value)

    assert offs == []
    assert control.read(0, 2) == value & 0x1C01


def test_control_when_restored_reads_the_same(control: Pm1Control, offs: list[str]) -> None:
    control.write(0, 2, 0x1400)
    other = Pm1Control(lambda: None)
    other.load(control.save())

    assert other.read(0, 2) == 0x1400
    control.reset()
    assert control.read(0, 2) == 0
    with pytest.raises(TypeError, match="wrong type"):
        other.load({"control": "x"})


@pytest.mark.parametrize(
    ("written", "ends"),
    [
        (b"Shutdown", 1),
        (b"SSSShutdown", 1),
        (b"ShutShutdown", 1),
        (b"ShutdownShutdown", 2),
        (b"shutdown", 0),
        (b"Shut down", 0),
        (b"Shutdow", 0),
    ],
)
def test_shutdown_port_when_the_word_is_written_switches_off(
    port: ShutdownPort, offs: list[str], written: bytes, ends: int
) -> None:
    port.write_many(0, written)

    assert offs == ["off"] * ends


def test_shutdown_port_when_restored_awaits_the_rest(port: ShutdownPort, offs: list[str]) -> None:
    half = ShutdownPort(lambda: None)
    half.write_many(0, SHUTDOWN[:4])
    port.load(half.save())

    port.write_many(0, SHUTDOWN[4:])

    assert offs == ["off"]
    half.reset()
    assert half.save()["matched"] == 0
    with pytest.raises(TypeError, match="wrong type"):
        port.load({"matched": "x"})
    with pytest.raises(ValueError, match="9 bytes of 8"):
        port.load({"matched": 9})
