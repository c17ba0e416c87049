"""What is saved of every device: features, configuration space, queues, and the state of its own."""

from __future__ import annotations

from pyvmm.virtio.errors import StateError, check_version
from pyvmm.virtio.ring import persist as ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.virtio.runtime import Runtime

VERSION = 1


def save(runtime: Runtime) -> dict[str, Any]:
    """The state of *runtime*'s device as plain values; the device is held."""
    device = runtime.device
    return {
        "version": VERSION,
        "device_id": device.device_id,
        "driver_features": runtime.driver_features,
        "config": device.config.read(0, len(device.config)).hex(),
        "queues": [ring.save(queue, device.pending(queue)) for queue in runtime.queues],
        "own": device.save_state(),
    }


def load(runtime: Runtime, state: dict[str, Any]) -> None:
    """Restore what ``save`` returned, before ``Runtime.start``.

    Raises StateError for what does not fit; the transport makes one of KeyError, TypeError, ValueError.
    """
    device = runtime.device
    check_version(device.name, state, VERSION)
    if state.get("device_id") != device.device_id:
        raise StateError(
            f"{device.name}: the saved state is of virtio device {state.get('device_id')}, and this is "
            f"{device.device_id}; attach the devices in the order they were saved in"
        )
    config = bytes.fromhex(state["config"])
    # An older version may have had fewer fields: the others are this device's.
    device.config.restore(config + device.config.read(0, len(device.config))[len(config) :])
    queues = runtime.queues
    if len(queues) - len(state["queues"]) == device.later_queues:
        queues = queues[: len(state["queues"])]  # the others are as after a reset
    for queue, saved in zip(queues, state["queues"], strict=True):
        ring.load(queue, saved)
    runtime.driver_features = state["driver_features"]
    device.load_state(state["own"])
    runtime.restored = True
