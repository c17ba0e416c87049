"""The options of ``--balloon``."""

from __future__ import annotations

from pyvmm.units import parse_seconds
from pyvmm.virtio.balloon.device import Balloon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.options import OptionReader


def from_options(reader: OptionReader) -> Balloon:
    """``balloon=[target=SIZE][,deflate-on-oom][,stats=SECONDS][,reporting]``. Raises ConfigError."""
    stats = reader.text("stats")
    seconds = None if stats is None else parse_seconds(stats, "--balloon stats")
    target = reader.size("target", 0) or 0
    try:
        return Balloon(
            target,
            deflate_on_oom=reader.flag("deflate-on-oom"),
            stats=seconds,
            reporting=reader.flag("reporting"),
        )
    except ValueError as error:
        raise reader.error(f"target: {error}") from None
