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
        "all_multicast",
        "all_unicast",
        "mac",
        "more_multicast",
        "promiscuous",
        "table",
    )

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.promiscuous = True
        #: Whether the driver asked for all multicast frames (ALLMULTI).
        self.all_multicast = False
        self.set_table((), ())

    def set_mac(self, mac: bytes) -> None:
        """The driver's own address."""
        self.mac = mac
        self._accepted = frozenset((mac, BROADCAST, *self.table))

    def set_table(self, unicast: Iterable[bytes], multicast: Iterable[bytes]) -> None:
        """The other addresses the driver wants."""
        one, many = frozenset(unicast), frozenset(multicast)
        #: Whether all frames of a kind pass because its table was too long.
        self.all_unicast, self.more_multicast = len(one) > TABLE_LIMIT, len(many) > TABLE_LIMIT
        nothing: frozenset[bytes] = frozenset()
        kept = (nothing if self.all_unicast else one) | (nothing if self.more_multicast else many)
        #: The other addresses whose frames pass.
        self.table = sorted(kept)
        self.set_mac(self.mac)

    def passes(self, destination: bytes) -> bool:
        """Whether a frame to *destination* is for this driver."""
        if self.promiscuous or destination in self._accepted:
            return True
        return self.all_multicast or self.more_multicast if destination[0] & 1 else self.all_unicast
