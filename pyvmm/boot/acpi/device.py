"""A device as the DSDT announces it."""

from __future__ import annotations

from pyvmm.boot.acpi import aml, resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class AcpiDevice:
    r"""One ``Device`` under ``\_SB``: its identifiers, registers and interrupts.

    :param name: up to four capitals, digits and underscores; unique in the machine
    :param hid: hardware identifier: ``PNP0501``, ``LNRO0005``
    :param uid: unique among the devices of one *hid*
    :param ports: (base, count) of each range of I/O ports, 1-255 ports each
    :param mmio: (base, bytes) of each range of memory-mapped registers
    :param interrupts: (global system interrupt, edge, shared) of each; all active high
    :param extra: encoded AML terms that follow _CRS
    """

    __slots__ = ("extra", "hid", "interrupts", "mmio", "name", "ports", "uid")

    def __init__(
        self,
        name: str,
        hid: str,
        uid: int = 0,
        *,
        ports: Iterable[tuple[int, int]] = (),
        mmio: Iterable[tuple[int, int]] = (),
        interrupts: Iterable[tuple[int, bool, bool]] = (),
        extra: Iterable[bytes] = (),
    ) -> None:
        self.name = name
        self.hid = hid
        self.uid = uid
        self.ports = tuple(ports)
        self.mmio = tuple(mmio)
        self.interrupts = tuple(interrupts)
        self.extra = tuple(extra)

    def encode(self) -> bytes:
        """The ``Device`` term. Raises AmlError for a name, number or range AML has no room for."""
        terms = [aml.name("_HID", aml.hid(self.hid)), aml.name("_UID", aml.integer(self.uid))]
        resources = [
            *(resource.io(base, count) for base, count in self.ports),
            *(resource.memory(base, size) for base, size in self.mmio),
            *(resource.interrupt(gsi, edge, shared) for gsi, edge, shared in self.interrupts),
        ]
        if resources:
            terms.append(aml.name("_CRS", resource.template(*resources)))
        return aml.device(self.name, *terms, *self.extra)
