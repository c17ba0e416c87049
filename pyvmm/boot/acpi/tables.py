"""All ACPI tables of a machine, placed."""

from __future__ import annotations

from pyvmm.boot.acpi import fixed
from pyvmm.boot.acpi.dsdt import dsdt_body
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.boot.acpi.device import AcpiDevice
    from pyvmm.boot.acpi.power import PowerPorts
    from pyvmm.memory.guest import GuestMemory

#: 255 is the broadcast address of 8-bit APIC identifiers; 254 is the I/O APIC's by custom.
MAX_CPUS = 254
#: DSDT revisions from 2 on have 64-bit integers.
_DSDT_REVISION = 2
_ALIGN = 16


class AcpiTablesError(ConfigError):
    """More CPUs or devices than the tables have room for."""


class AcpiTables:
    """RSDP, RSDT, XSDT, FADT, MADT and DSDT from guest address *base* on, below *end*.

    The RSDP comes first; it is found by a search where *base* is a multiple of 16 in 0xe0000-0xfffff.

    :param cpus: 1-254, with APIC identifiers from 0
    :param devices: what the DSDT announces besides CPUs and power button
    :raises AcpiTablesError: they do not fit, or too many CPUs
    :raises AmlError: a device that AML cannot express, or two of one name
    """

    __slots__ = ("end", "pieces", "rsdp")

    def __init__(
        self, cpus: int, devices: Iterable[AcpiDevice], power: PowerPorts, base: int, end: int
    ) -> None:
        if not 1 <= cpus <= MAX_CPUS:
            raise AcpiTablesError(f"ACPI tables cannot list {cpus} CPUs; ask for 1 to {MAX_CPUS}")
        #: Guest address of the RSDP.
        self.rsdp = base
        #: (guest address, bytes) of each table.
        self.pieces: list[tuple[int, bytes]] = []
        #: First address behind the tables.
        self.end = base + fixed.RSDP_SIZE

        dsdt = self._add(fixed.table(b"DSDT", _DSDT_REVISION, dsdt_body(cpus, devices, power)))
        listed = [self._add(fixed.fadt(dsdt, power)), self._add(fixed.madt(cpus))]
        rsdt = self._add(fixed.rsdt(listed))
        xsdt = self._add(fixed.xsdt(listed))
        self.pieces.insert(0, (base, fixed.rsdp(rsdt, xsdt)))
        if self.end > end:
            raise AcpiTablesError(
                f"the ACPI tables take {self.end - base} bytes, and there is room for {end - base} from "
                f"{base:#x}; take devices off the machine"
            )

    def _add(self, data: bytes) -> int:
        gpa = -(-self.end // _ALIGN) * _ALIGN
        self.pieces.append((gpa, data))
        self.end = gpa + len(data)
        return gpa

    def place(self, memory: GuestMemory) -> None:
        """Write every table into guest memory. Raises GuestMemoryError where there is none."""
        for gpa, data in self.pieces:
            memory.write(gpa, data)
