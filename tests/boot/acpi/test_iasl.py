"""ACPICA's own tool reads every table, and compiles its reading to the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.boot.acpi import AcpiDevice, AcpiTables, aml
from tests.support.acpi_machine import COM1, piece, tables, virtio

pytestmark = pytest.mark.skipif(
    shutil.which("iasl") is None, reason="needs iasl, from Debian's package acpica-tools"
)

FEATURES = AcpiDevice(
    "FEAT",
    "LNRO0006",
    300,
    ports=[(0x510, 12), (0xFFFF, 1)],
    mmio=[(0xFEC10000, 0x1000), (1 << 40, 1 << 33), (0xFFFFF000, 0x2000)],
    interrupts=[(20, False, True), (21, True, False)],
    extra=[
        aml.name("TEXT", aml.string("a word")),
        aml.name("BYTE", aml.buffer(bytes(range(70)))),
        aml.name("LIST", aml.package(aml.integer(1 << 40), aml.string("x"), aml.package())),
        aml.op_region("MREG", aml.SYSTEM_MEMORY, 0xD0000000, 0x100),
        aml.field("MREG", aml.BYTE_ACC, ("FLAG", 1), (None, 100), ("LONG", 5)),
        aml.method(
            "TEST",
            2,
            aml.if_(
                aml.equal(aml.arg(0), aml.integer(0x12345)),
                aml.store(aml.arg(1), aml.path("FLAG")),
            ),
            aml.else_(aml.notify("^^PWRB", 2)),
            aml.return_(aml.path("LONG")),
        ),
    ],
)


def iasl(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["iasl", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def disassemble(data: bytes, tmp_path: Path) -> str:
    (tmp_path / "table.dat").write_bytes(data)
    output = iasl("-d", "table.dat", cwd=tmp_path)
    for word in ("Error", "Warning", "ACPI BIOS", "Could not", "Invalid"):
        assert word not in output, output
    return (tmp_path / "table.dsl").read_text()


MACHINES = {
    "smallest": lambda: tables(1, []),
    "usual": lambda: tables(2),
    "largest": lambda: tables(254, [COM1, *(virtio(number) for number in range(40)), FEATURES]),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_dsdt_when_recompiled_from_its_disassembly_is_the_same(machine: str, tmp_path: Path) -> None:
    data = piece(MACHINES[machine](), b"DSDT")

    disassemble(data, tmp_path)
    output = iasl("-oa", "-vr", "table.dsl", cwd=tmp_path)

    assert "0 Errors, 0 Warnings" in output
    # Behind the header: iasl signs that with its own name and version.
    assert (tmp_path / "table.aml").read_bytes()[36:] == data[36:]


@pytest.mark.parametrize("signature", [b"FACP", b"APIC", b"RSDT", b"XSDT"])
def test_fixed_table_when_recompiled_from_its_disassembly_is_the_same(
    signature: bytes, tmp_path: Path
) -> None:
    data = piece(tables(3), signature)

    disassemble(data, tmp_path)
    output = iasl("table.dsl", cwd=tmp_path)

    assert "0 Errors, 0 Warnings" in output
    compiled = (tmp_path / "table.aml").read_bytes()
    assert compiled[36:] == data[36:]
    assert len(compiled) == len(data)


def usual(tmp_path: Path) -> str:
    text = disassemble(piece(tables(2), b"DSDT"), tmp_path)
    return " ".join(text.split())


def test_dsdt_when_read_switches_off_with_type_5(tmp_path: Path) -> None:
    assert "Name (_S5, Package (0x04) // _S5_: S5 System State { 0x05," in usual(tmp_path)


def test_dsdt_when_read_has_a_processor_device_for_each_cpu(tmp_path: Path) -> None:
    text = usual(tmp_path)

    assert text.count('Name (_HID, "ACPI0007" /* Processor Device */)') == 2
    assert "Device (C001)" in text


def test_dsdt_when_read_has_com1_with_ports_and_edge_interrupt(tmp_path: Path) -> None:
    _, com1 = usual(tmp_path).split("Device (COM1)")

    assert 'EisaId ("PNP0501")' in com1
    assert "0x03F8, // Range Minimum 0x03F8, // Range Maximum 0x01, // Alignment 0x08, // Length" in com1
    assert "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000004, }" in com1


def test_dsdt_when_read_notifies_the_power_button_from_the_event_register(tmp_path: Path) -> None:
    _, ged = usual(tmp_path).split("Device (GED)")

    assert "OperationRegion (EREG, SystemIO, 0x0604, 0x04)" in ged
    assert "{ 0x00000005, }" in ged
    assert "If ((Local0 & One)) { Notify (PWRB, 0x80)" in ged


@pytest.mark.skipif(shutil.which("acpiexec") is None, reason="needs acpiexec, from Debian's acpica-tools")
def test_dsdt_when_loaded_by_acpica_lets_every_method_run(tmp_path: Path) -> None:
    """Linux's interpreter, in user space: it loads the namespace and runs the event method."""
    acpi: AcpiTables = MACHINES["largest"]()
    names = []
    for signature in (b"FACP", b"DSDT", b"APIC"):
        names.append(f"{signature.decode()}.aml")
        (tmp_path / names[-1]).write_bytes(piece(acpi, signature))

    done = subprocess.run(
        ["acpiexec", "-b", "namespace \\_SB.GED; execute \\_SB.GED._EVT 5", *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    output = done.stdout + done.stderr
    assert "ACPI Error" not in output and "Exception" not in output, output
    assert "Evaluating \\_SB.GED._EVT" in output
