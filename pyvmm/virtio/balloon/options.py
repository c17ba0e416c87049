"""The options of ``--balloon``."""

from __future__ import annotations

from pyvmm.units import parse_seconds
from pyvmm.virtio.balloon.device import Balloon, BalloonTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.options import OptionReader


def from_options(reader: OptionReader) -> Balloon:
    """``balloon=[target=SIZE][,deflate-on-oom][,stats=SECONDS][,reporting]``. Raises ConfigError."""
    stats = reader.text("stats")
    seconds = None if stats is None else parse_seconds(stats, "--balloon stats")
    target = reader.size("target", 0) or 0
    deflate_on_oom, reporting = reader.flag("deflate-on-oom"), reader.flag("reporting")
    kept = reader.open("target", lambda: BalloonTarget(target))
    try:
        return Balloon(kept, deflate_on_oom=deflate_on_oom, stats=seconds, reporting=reporting)
    except ValueError as error:
        raise reader.error(f"target: {error}") from None
