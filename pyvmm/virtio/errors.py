"""What can be wrong with a virtio device, or with what its driver does."""

from __future__ import annotations

from pyvmm.errors import GuestError, StartError


class QueueError(GuestError):
    """The driver broke a rule of the ring itself: the device stops until it is reset."""


class ChainError(GuestError):
    """The driver broke a rule of one descriptor chain: the chain goes back unused, the device goes on."""


class DeviceError(StartError):
    """A device cannot be made as asked for on this host."""
