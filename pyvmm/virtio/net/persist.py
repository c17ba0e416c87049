"""What is saved of a network device: what commands changed, and the chains taken and not completed."""

from __future__ import annotations

from pyvmm.virtio.errors import check_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pyvmm.virtio.net.filter import Filter
    from pyvmm.virtio.net.receive import Receiver
    from pyvmm.virtio.ring.chain import Chain

VERSION = 1
KEYS = ("filter", "offloads", "pairs", "receiving", "sending")


def save(
    wanted: Filter, offloads: int, pairs: int, receivers: Iterable[Receiver], sending: Mapping[int, Chain]
) -> dict[str, Any]:
    """The state of a device with these parts, as plain values."""
    return {
        "version": VERSION,
        "filter": {
            "mac": wanted.mac.hex(),
            "promiscuous": wanted.promiscuous,
            "all_multicast": wanted.all_multicast,
            "more_unicast": wanted.all_unicast,
            "more_multicast": wanted.more_multicast,
            "table": [address.hex() for address in wanted.table],
        },
        "offloads": offloads,
        "pairs": pairs,
        # The heads of chains that a receive queue has taken; queue and head of frames that the backend had no
        # room for.
        "receiving": [receiver.heads for receiver in receivers],
        "sending": [[index, chain.head] for index, chain in sending.items()],
    }


def checked(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """The values of *state*, for the start to come. Raises KeyError, StateError for another major version."""
    check_version(name, state, VERSION)
    return {key: state[key] for key in KEYS}


def load_filter(wanted: Filter, state: dict[str, Any]) -> None:
    """Restore the filter. Raises KeyError, TypeError or ValueError for what is none."""
    wanted.table = [bytes.fromhex(address) for address in state["table"]]
    wanted.promiscuous, wanted.all_multicast = bool(state["promiscuous"]), bool(state["all_multicast"])
    wanted.all_unicast, wanted.more_multicast = bool(state["more_unicast"]), bool(state["more_multicast"])
    wanted.set_mac(bytes.fromhex(str(state["mac"])))
