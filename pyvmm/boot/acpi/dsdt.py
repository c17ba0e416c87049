r"""The DSDT: what lies under ``\_SB``, and how the machine is switched off.

Source: ACPI specification 6.5: "Declaring Processors" (8.4), "Interrupt-based ACPI Event Signaling"
(5.6.9), "Control Method Power Button" (4.8.2.2.1.2), "System \_S5 State" (7.4.2.6).
"""

from __future__ import annotations

from pyvmm.boot.acpi import aml
from pyvmm.boot.acpi.device import AcpiDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.boot.acpi.power import PowerPorts

POWER_BUTTON = "PWRB"
GENERIC_EVENT = "GED"
#: What the power button's driver takes for "pressed" (power button notification values, 5.6.6).
_PRESSED = 0x80


def dsdt_body(cpus: int, devices: Iterable[AcpiDevice], power: PowerPorts) -> bytes:
    """The terms of the DSDT, without the table header.

    Raises AmlError for two devices of one name, and for what a device has wrong.
    """
    everything = [
        *(AcpiDevice(f"C{cpu:03X}", "ACPI0007", cpu) for cpu in range(cpus)),
        AcpiDevice(POWER_BUTTON, "PNP0C0C"),
        _generic_event_device(power),
        *devices,
    ]
    seen: dict[bytes, AcpiDevice] = {}
    for device in everything:
        other = seen.setdefault(aml.name_seg(device.name), device)
        if other is not device:
            raise aml.AmlError(
                f"two ACPI devices are called {device.name}: {other.hid} number {other.uid} and "
                f"{device.hid} number {device.uid}; give one another name"
            )
    # The first element is the value for SLP_TYP; hardware-reduced machines use no other.
    s5 = aml.package(aml.integer(power.s5_type), *[aml.integer(0)] * 3)
    return aml.name("_S5", s5) + aml.scope("_SB", *(device.encode() for device in everything))


def _generic_event_device(power: PowerPorts) -> AcpiDevice:
    """Its interrupt runs _EVT, which asks the event register (reading clears it) what happened."""
    return AcpiDevice(
        GENERIC_EVENT,
        "ACPI0013",
        interrupts=[(power.events_gsi, True, False)],
        extra=[
            aml.op_region("EREG", aml.SYSTEM_IO, power.events, 4),
            aml.field("EREG", aml.DWORD_ACC, ("EVTS", 32)),
            aml.method(
                "_EVT",
                1,
                aml.store(aml.path("EVTS"), aml.local(0)),
                aml.if_(
                    aml.bit_and(aml.local(0), aml.integer(power.power_button)),
                    aml.notify(POWER_BUTTON, _PRESSED),
                ),
                serialized=True,
            ),
        ],
    )
