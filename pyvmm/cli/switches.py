"""``--net switch:NAME`` in a process that has one card on that switch: nobody else can reach it."""

from __future__ import annotations

from collections import Counter

from pyvmm.cli.messages import message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.config import DeviceOptions

_SWITCH = "switch:"


def warn_of_lonely_cards(devices: Iterable[DeviceOptions]) -> None:
    """Print a line for each switch that one card alone of this process's *devices* is on."""
    types = (str(device.values.get("type", "")) for device in devices if device.kind == "net")
    for name, cards in Counter(name for name in types if name.startswith(_SWITCH)).items():
        if cards == 1:
            message(
                f"--net {name} joins the cards of one process, and this process has no other on that switch; "
                "to join two processes give both --net link:PATH, or each a tap in one bridge"
            )
