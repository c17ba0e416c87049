"""What is saved of the MMIO transport: the registers and the interrupt's causes, with the device inside."""

from __future__ import annotations

from pyvmm.virtio.errors import check_numbers, check_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.virtio.transport.registers import Registers

VERSION = 1

#: Every key but the device's, and what its number is below.
LIMITS = {
    "status": 1 << 8,
    "needs_reset": 2,
    "interrupt_status": 4,
    "driver_features": 1 << 96,
    "device_features_sel": 1 << 32,
    "driver_features_sel": 1 << 32,
    "queue_sel": 1 << 32,
    "shm_sel": 1 << 32,
}


def save(registers: Registers, interrupt_status: int, device: dict[str, Any]) -> dict[str, Any]:
    """The state of a transport with these *registers*, and the state of its *device*.

    *interrupt_status*: the causes in InterruptStatus, 0 to 3.
    """
    return {
        "version": VERSION,
        "status": registers.status,
        "needs_reset": registers.needs_reset,
        "interrupt_status": interrupt_status,
        "driver_features": registers.driver_features,
        "device_features_sel": registers.device_features_sel,
        "driver_features_sel": registers.driver_features_sel,
        "queue_sel": registers.queue_sel,
        "shm_sel": registers.shm_sel,
        "device": device,
    }


def check(name: str, state: dict[str, Any]) -> None:
    """Raise StateError unless *state* is of this major version and has a possible number for each key."""
    check_version(name, state, VERSION)
    check_numbers(name, state, LIMITS)


def load(registers: Registers, state: dict[str, Any]) -> None:
    """Restore the registers of a *state* that ``check`` passed."""
    registers.status = state["status"]
    registers.needs_reset = bool(state["needs_reset"])
    registers.driver_features = state["driver_features"]
    registers.device_features_sel = state["device_features_sel"]
    registers.driver_features_sel = state["driver_features_sel"]
    registers.queue_sel = state["queue_sel"]
    registers.shm_sel = state["shm_sel"]
