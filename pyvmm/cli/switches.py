"""``--net switch:NAME`` in a command that has one card on that switch: no other can come."""

from __future__ import annotations

from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.config import DeviceOptions


def warn_of_lonely_cards(devices: Iterable[DeviceOptions]) -> None:
    """Report each switch that one card alone of this command's *devices*, which are all, is on."""
    types = (str(device.values.get("type", "")) for device in devices if device.kind == "net")
    parted = (kind.partition(":") for kind in types)
    for name, cards in Counter(rest for kind, _, rest in parted if kind == "switch" and rest).items():
        if cards == 1:
            from pyvmm.virtio.net.named_switch import tell_alone

            tell_alone(name)
