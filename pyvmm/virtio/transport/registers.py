"""What a driver has written to the registers of the MMIO transport, and is not a queue's. Section 4.2.2."""

from __future__ import annotations


class Registers:
    """The values of one device's registers, as after a reset when made."""

    __slots__ = (
        "device_features_sel",
        "driver_features",
        "driver_features_sel",
        "needs_reset",
        "queue_sel",
        "shm_sel",
        "status",
    )

    def __init__(self) -> None:
        #: Status as the driver set it; DEVICE_NEEDS_RESET is not among its bits.
        self.status = 0
        self.needs_reset = False
        #: What DriverFeatures got, 96 bits of it.
        self.driver_features = 0
        self.device_features_sel = self.driver_features_sel = 0
        self.queue_sel = self.shm_sel = 0
