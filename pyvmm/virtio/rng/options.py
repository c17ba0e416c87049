"""The options of ``--rng``."""

from __future__ import annotations

from pyvmm.virtio.rng.device import Rng

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.options import OptionReader


def from_options(reader: OptionReader) -> Rng:
    """``rng``: it has no options."""
    return Rng()
