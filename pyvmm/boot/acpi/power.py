"""The ports of the power and event registers."""

from __future__ import annotations


class PowerPorts:
    """I/O ports of the sleep, reset and event registers; ACPI specification 6.5, 4.8.3.7, 4.8.3.6, 5.6.9.

    :param sleep_control: port of the 8-bit sleep control register
    :param sleep_status: port of the 8-bit sleep status register
    :param s5_type: SLP_TYP value, 0-7, that switches the machine off
    :param reset: port of the 8-bit reset register
    :param reset_value: what the guest writes there, 0-255
    :param events: port of the 32-bit register that says which events are pending
    :param power_button: its bit for the power button
    :param events_gsi: the interrupt that announces an event; edge
    """

    __slots__ = (
        "events",
        "events_gsi",
        "power_button",
        "reset",
        "reset_value",
        "s5_type",
        "sleep_control",
        "sleep_status",
    )

    def __init__(
        self,
        *,
        sleep_control: int,
        sleep_status: int,
        s5_type: int,
        reset: int,
        reset_value: int,
        events: int,
        power_button: int,
        events_gsi: int,
    ) -> None:
        self.sleep_control = sleep_control
        self.sleep_status = sleep_status
        self.s5_type = s5_type
        self.reset = reset
        self.reset_value = reset_value
        self.events = events
        self.power_button = power_button
        self.events_gsi = events_gsi
