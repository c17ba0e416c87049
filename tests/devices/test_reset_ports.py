"""The reset control register and system control port A."""

from __future__ import annotations

import pytest

from pyvmm.board.device import Device
from pyvmm.devices.reset_ports import ResetControl, SystemControlA


class Pci(Device):
    """Keeps what reaches the configuration mechanism."""

    def __init__(self) -> None:
        self.accesses: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append((offset, size))
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append((offset, size, value))


@pytest.fixture
def resets() -> list[str]:
    return []


def control(resets: list[str], pci: Device | None = None) -> ResetControl:
    return ResetControl(lambda: resets.append("reset"), pci or Device())


@pytest.mark.parametrize("value", [0x04, 0x06, 0x0E, 0xFF])
def test_reset_control_when_rst_cpu_is_written_resets(resets: list[str], value: int) -> None:
    register = control(resets)
    register.write(1, 1, 0x02)
    assert (resets, register.read(1, 1)) == ([], 2)

    register.write(1, 1, value)

    assert resets == ["reset"]
    assert register.read(1, 1) & 4 == 0


def test_reset_control_is_no_part_of_a_configuration_address(resets: list[str]) -> None:
    pci = Pci()
    register = control(resets, pci)

    register.write(0, 4, 0x8000_0400)  # device 0, function 4: the second byte has RST_CPU
    register.write(0, 2, 0x0600)
    register.write(3, 1, 1)
    register.read(0, 4)
    register.read(2, 1)

    assert resets == []
    assert pci.accesses == [(0, 4, 0x8000_0400), (0, 2, 0x0600), (3, 1, 1), (0, 4), (2, 1)]


def test_reset_control_without_pci_reads_ones_elsewhere(resets: list[str]) -> None:
    register = control(resets)
    register.write(0, 4, 0x8000_0000)

    assert register.read(0, 4) == 0xFFFF_FFFF
    assert register.read(4, 2) == 0xFFFF


def test_reset_control_when_restored_reads_the_same(resets: list[str]) -> None:
    register = control(resets)
    register.write(1, 1, 0x0A)
    other = control([])
    other.load(register.save())

    assert other.read(1, 1) == 0x0A
    register.reset()
    assert register.read(1, 1) == 0
    with pytest.raises(TypeError, match="wrong type"):
        other.load({"kind": None})


def test_port_a_resets_when_bit_0_rises(resets: list[str]) -> None:
    port = SystemControlA(lambda: resets.append("reset"))
    assert port.read(0, 1) == 2

    port.write(0, 1, 0x02)  # A20 on, as kernels do
    assert resets == []
    port.write(0, 1, 0x03)
    port.write(0, 1, 0x01)

    assert resets == ["reset"]
    assert port.read(0, 1) == 1


def test_port_a_when_restored_reads_the_same(resets: list[str]) -> None:
    port = SystemControlA(lambda: resets.append("reset"))
    port.write(0, 1, 0)
    other = SystemControlA(lambda: None)
    other.load(port.save())

    assert other.read(0, 1) == 0
    port.reset()
    assert port.read(0, 1) == 2
    with pytest.raises(TypeError, match="wrong type"):
        other.load({"value": None})
