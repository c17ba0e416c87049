"""This host's own calls: libc, barriers, helper programs, printable text, reports to ``logging``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Called once, before the first report goes to ``logging``: a program sets it to add its handler only when
#: one is needed. It lies here because ``logging`` and ``notice`` are loaded by the first report.
before_first_report: Callable[[], object] | None = None
