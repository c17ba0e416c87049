"""ACPI tables of a hardware-reduced x86-64 machine, made from a list of described devices."""

from __future__ import annotations

from pyvmm.boot.acpi.device import AcpiDevice
from pyvmm.boot.acpi.power import PowerPorts
from pyvmm.boot.acpi.tables import AcpiTables, AcpiTablesError

__all__ = ["AcpiDevice", "AcpiTables", "AcpiTablesError", "PowerPorts"]
