"""The parsed values and tables of the arm64 machine, on any host."""

from __future__ import annotations

import pytest

from pyvmm.arch.arm64 import firmware, layout, registers
from pyvmm.arch.arm64.cpu import Arm64CpuModel
from pyvmm.arch.arm64.platform import UartPlace
from pyvmm.boot.errors import DoesNotFitError, ImageError
from pyvmm.config import Config
from pyvmm.errors import ConfigError, StartError


class Offers:
    """Stands for /dev/kvm: has these capabilities."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def check_extension(self, name: str) -> int:
        return int(name in self.names)


PAUTH = ("ARM_PTRAUTH_ADDRESS", "ARM_PTRAUTH_GENERIC")


@pytest.mark.parametrize(
    ("text", "offered", "found"),
    [
        ("host", (), set()),
        ("host", PAUTH, {"pauth"}),
        ("host", PAUTH[:1], set()),
        ("host,-pauth", PAUTH, set()),
        ("host", ("ARM_SVE", "ARM_PMU_V3"), set()),
        ("host,+sve,+pmu", ("ARM_SVE", "ARM_PMU_V3"), {"sve", "pmu"}),
    ],
)
def test_cpu_features_are_those_wanted_and_there(
    text: str, offered: tuple[str, ...], found: set[str]
) -> None:
    assert Arm64CpuModel(text).features(Offers(*offered)) == found  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["max", "host,sve", "host,+avx2", "host,-", "host,+sve,-sve", ""])
def test_cpu_model_when_wrong_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cpu:"):
        Arm64CpuModel(text)


def test_cpu_feature_when_insisted_on_and_absent_is_named() -> None:
    with pytest.raises(StartError, match="does not offer sve"):
        Arm64CpuModel("host,+sve").features(Offers())  # type: ignore[arg-type]


def test_uart_when_given_words_is_there() -> None:
    uart = UartPlace("16550,base=0x1c090000,irq=5,shift=2")

    assert (uart.kind, uart.base, uart.irq, uart.shift) == ("16550", 0x1C09_0000, 5, 2)
    assert (UartPlace("pl011").base, UartPlace("pl011").irq) == (layout.UART0, layout.UART0_SPI)


@pytest.mark.parametrize(
    "text",
    [
        "uart",
        "pl011,base",
        "pl011,base=x",
        "pl011,irq=256",
        "pl011,irq=-1",
        "pl011,shift=2",
        "16550,shift=3",
        "pl011,base=2",
        "pl011,speed=9",
    ],
)
def test_uart_when_wrong_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="uart:"):
        UartPlace(text)


def test_registers_have_the_identifiers_of_the_kernels_documentation() -> None:
    # Linux Documentation/virt/kvm/api.rst, 4.68, "ARM registers".
    assert registers.REGISTERS["X0"] == 0x6030_0000_0010_0000
    assert registers.REGISTERS["PC"] == 0x6030_0000_0010_0040
    assert registers.REGISTERS["PSTATE"] == 0x6030_0000_0010_0042
    assert registers.REGISTERS["SP_EL1"] == 0x6030_0000_0010_0044
    assert registers.REGISTERS["V0"] == 0x6040_0000_0010_0054
    assert registers.REGISTERS["FPCR"] == 0x6020_0000_0010_00D5
    assert registers.REGISTERS["CNTV_CVAL_EL0"] == 0x6030_0000_0013_DF02


def test_names_when_two_registers_would_share_one_are_distinct() -> None:
    assert len(set(registers.REGISTERS.values())) == len(registers.REGISTERS)


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        (0x6030_0000_0013_C000, "MIDR_EL1"),
        (registers.system(3, 0, 1, 0, 0), "SCTLR_EL1"),
        (registers.system(3, 0, 11, 3, 5), "S3_0_C11_C3_5"),
        (registers.system(2, 0, 0, 2, 2), "MDSCR_EL1"),
        (registers.system(2, 0, 0, 15, 7), "DBGWCR15_EL1"),
        (registers.system(3, 3, 14, 15, 7), "PMCCFILTR_EL0"),
        (0x6020_0000_0011_0002, "CCSIDR_EL1[2]"),
        (0x6080_0000_0015_0000, "Z0[0]"),
        (0x6030_0000_0014_0000, "PSCI_VERSION"),
    ],
)
def test_name_of_a_register_is_readable(identifier: int, name: str) -> None:
    assert registers.name_of(identifier) == name


def config(**keys: object) -> Config:
    return Config(firmware="x", **keys)


def test_firmware_when_below_ram_is_a_rom_of_whole_pages() -> None:
    rom = firmware.read_rom(b"\x14\0\0\x14" * 3, config())

    assert rom is not None
    assert (len(rom.data), rom.places) == (0x10000, [(0, 0, 128 << 20, "firmware ROM")])


@pytest.mark.parametrize("data", [b"\x7fELF" + bytes(60), b"code"])
def test_firmware_when_an_elf_or_placed_in_ram_is_no_rom(data: bytes) -> None:
    base = None if data[:1] == b"\x7f" else 0x4020_0000

    assert firmware.read_rom(data, config(firmware_base=base)) is None


@pytest.mark.parametrize(
    ("data", "keys", "error"),
    [
        (bytes(64), {}, ImageError),
        (b"code", {"firmware_base": 0x1000}, ImageError),
    ],
)
def test_firmware_when_it_cannot_be_a_rom_says_why(
    data: bytes, keys: dict[str, int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        firmware.read_rom(data, config(**keys))


def test_firmware_when_too_large_for_its_place_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FIRMWARE_MAX", 0x10000)

    with pytest.raises(DoesNotFitError, match="128 MiB"):
        firmware.read_rom(b"code" * 0x8000, config())


@pytest.mark.parametrize(
    "keys",
    [
        {"ram_base": 1},
        {"ram_base": 0},
        {"ram_base": "x"},
        {"firmware_base": 1 << 50},
        {"gic": "4"},
        {"gic": 3},
    ],
)
def test_config_when_an_address_or_version_is_wrong_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        config(**keys)


def test_config_when_an_address_is_a_text_is_the_number() -> None:
    assert config(ram_base="0x80000000", firmware_base="1G").ram_base == 0x8000_0000
