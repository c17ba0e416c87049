"""Which received frames a driver wants: RX mode and MAC filter table. Section 5.1.6.5.1, 5.1.6.5.2."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

BROADCAST = b"\xff" * 6
#: Addresses of each kind a table holds; a longer one lets all of that kind pass (5.1.6.5.2).
TABLE_LIMIT = 64


class Filter:
    """Begins by letting everything pass, as a driver without a control queue expects."""

    __slots__ = (
        "_accepted",
        "_all_multicast",
        "_all_unicast",
        "_table",
        "all_multicast",
        "mac",
        "promiscuous",
    )

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.promiscuous = True
        self.all_multicast = False
        self.set_table((), ())

    def set_mac(self, mac: bytes) -> None:
        """The driver's own address."""
        self.mac = mac
        self._accepted = frozenset((mac, BROADCAST, *self._table))

    def set_table(self, unicast: Iterable[bytes], multicast: Iterable[bytes]) -> None:
        """The other addresses the driver wants."""
        one, many = frozenset(unicast), frozenset(multicast)
        self._all_unicast, self._all_multicast = len(one) > TABLE_LIMIT, len(many) > TABLE_LIMIT
        nothing: frozenset[bytes] = frozenset()
        kept = (nothing if self._all_unicast else one) | (nothing if self._all_multicast else many)
        self._table = sorted(kept)
        self.set_mac(self.mac)

    def passes(self, destination: bytes) -> bool:
        """Whether a frame to *destination* is for this driver."""
        if self.promiscuous or destination in self._accepted:
            return True
        return self.all_multicast or self._all_multicast if destination[0] & 1 else self._all_unicast

    def save(self) -> dict[str, object]:
        """Plain values."""
        return {
            "mac": self.mac.hex(),
            "promiscuous": self.promiscuous,
            "all_multicast": self.all_multicast,
            "more_unicast": self._all_unicast,
            "more_multicast": self._all_multicast,
            "table": [address.hex() for address in self._table],
        }

    def load(self, state: dict[str, object]) -> None:
        """Take back what ``save`` gave."""
        table = state["table"]
        assert isinstance(table, list)
        self._table = [bytes.fromhex(address) for address in table]
        self.promiscuous, self.all_multicast = bool(state["promiscuous"]), bool(state["all_multicast"])
        self._all_unicast, self._all_multicast = bool(state["more_unicast"]), bool(state["more_multicast"])
        self.set_mac(bytes.fromhex(str(state["mac"])))
