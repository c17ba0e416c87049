"""What KVM is told of the interrupt controller, on any host: the attributes, written down."""

from __future__ import annotations

from errno import EINVAL, ENODEV

import pytest

from pyvmm.arch.arm64 import chips, layout
from pyvmm.arch.arm64.gic import Gic
from pyvmm.board.board import Board, PlacementError
from pyvmm.board.space import MMIO
from pyvmm.config import Config
from pyvmm.errors import ConfigError, StartError
from pyvmm.pykvm import KvmError

V2, V3, ITS = 5, 7, 8
ADDRESS, NR_IRQS, CONTROL = 0, 3, 4
REDIST_REGION = 5


class Device:
    """Keeps the attributes it is given: (group, number) -> value."""

    def __init__(self, log: list[tuple[int, int, int, int]], kind: int) -> None:
        self.log, self.kind, self.closed = log, kind, 0

    def set_device_attr(self, group: int, attr: int, data: bytes = b"") -> None:
        self.log.append((self.kind, group, attr, int.from_bytes(data, "little")))

    def close(self) -> None:
        self.closed += 1


class Vm:
    """A VM of a host whose KVM emulates *kinds*."""

    def __init__(self, *kinds: int, error: int = ENODEV) -> None:
        self.kinds, self.error = kinds, error
        self.log: list[tuple[int, int, int, int]] = []
        self.devices: list[Device] = []

    def create_device(self, kind: int) -> Device:
        if kind not in self.kinds:
            raise KvmError("KVM_CREATE_DEVICE", self.error, "")
        self.devices.append(Device(self.log, kind))
        return self.devices[-1]


def made(vm: Vm, wanted: str = "auto", cpus: int = 1) -> Gic:
    return Gic(vm, wanted, cpus)  # type: ignore[arg-type]


def test_gicv3_when_made_has_its_places_and_256_shared_interrupts() -> None:
    vm = Vm(V2, V3, ITS)

    gic = made(vm, cpus=2)

    assert (gic.version, gic.has_its, gic.redistributors) == (3, True, [(0x80A_0000, 2)])
    assert vm.log == [
        (V3, ADDRESS, 2, 0x800_0000),
        (V3, ADDRESS, REDIST_REGION, 2 << 52 | 0x80A_0000),
        (V3, NR_IRQS, 0, 288),
        (ITS, ADDRESS, 4, 0x808_0000),
    ]


def test_redistributors_when_many_go_to_a_second_stretch_and_overlap_nothing() -> None:
    vm = Vm(V3)
    gic = made(vm, cpus=254)
    board = Board()
    gic.place(board)
    board.place(MMIO, layout.UART0, 0x1000, "UART 0")
    board.place(MMIO, layout.MMIO_START, layout.MMIO_END - layout.MMIO_START, "devices")
    board.place(MMIO, layout.RAM, 1 << 30, "ram 0")

    assert gic.redistributors == [(0x80A_0000, 123), (0x1000_0000, 131)]
    assert [entry[3] for entry in vm.log if entry[2] == REDIST_REGION] == [
        123 << 52 | 0x80A_0000,
        131 << 52 | 0x1000_0000 | 1,
    ]


def test_gic_when_initialized_starts_controller_and_then_its() -> None:
    vm = Vm(V3, ITS)
    gic = made(vm)
    del vm.log[:]

    gic.initialize()

    assert [(kind, group) for kind, group, _, _ in vm.log] == [(V3, CONTROL), (ITS, CONTROL)]


def test_gicv2_when_it_is_all_there_is_is_taken() -> None:
    vm = Vm(V2)
    gic = made(vm, cpus=8)

    assert (gic.version, gic.has_its) == (2, False)
    assert vm.log[:2] == [(V2, ADDRESS, 0, 0x800_0000), (V2, ADDRESS, 1, 0x801_0000)]


def test_gicv2_when_asked_for_nine_cpus_says_how_many_it_has_and_closes() -> None:
    vm = Vm(V2)

    with pytest.raises(ConfigError, match="at most 8 CPUs, not 9"):
        made(vm, cpus=9)
    assert vm.devices[0].closed == 1


@pytest.mark.parametrize(
    ("wanted", "sentence"), [("auto", "no interrupt controller"), ("3", "no GICv3"), ("2", "no GICv2")]
)
def test_gic_when_the_host_has_none_says_so(wanted: str, sentence: str) -> None:
    with pytest.raises(StartError, match=sentence):
        made(Vm(), wanted)


def test_gic_when_kvm_fails_otherwise_tells_that() -> None:
    with pytest.raises(KvmError):
        made(Vm(error=EINVAL))


def test_uart_when_placed_on_the_gic_is_refused_with_both_names() -> None:
    board = Board()
    made(Vm(V3)).place(board)

    with pytest.raises(PlacementError, match=r"'UART 0'.*GIC distributor"):
        board.place(MMIO, layout.GIC_DIST + 0x1000, 0x1000, "UART 0")


class Host:
    """/dev/kvm of a host with so many guest address bits."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def check_extension(self, name: str) -> int:
        return self.bits if name == "ARM_VM_IPA_SIZE" else 0


@pytest.mark.parametrize(
    ("bits", "end", "found"),
    [(48, 1 << 32, 0), (48, 1 << 41, 48), (52, 1 << 41, 48), (36, 1 << 33, 36), (0, 1 << 33, 0)],
)
def test_machine_type_when_memory_is_large_or_the_host_small_names_the_bits(
    bits: int, end: int, found: int
) -> None:
    assert chips.machine_type(Host(bits), end) == found  # type: ignore[arg-type]


def test_machine_type_when_memory_is_beyond_the_host_says_so() -> None:
    with pytest.raises(StartError, match="36 address bits"):
        chips.machine_type(Host(36), 1 << 40)  # type: ignore[arg-type]


def test_ram_when_its_base_is_chosen_leaves_all_below_free() -> None:
    assert chips.ram_gap(Config(firmware="x")) == (0, 0x4000_0000)
    assert chips.ram_gap(Config(firmware="x", ram_base="2G")) == (0, 0x8000_0000)
