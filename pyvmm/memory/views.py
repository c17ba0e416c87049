"""Parts of a sequence of views, without a copy."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def rest(views: list[memoryview], start: int) -> list[memoryview]:
    """*views* without their first *start* bytes."""
    if not start:
        return views
    found = []
    for view in views:
        if start >= view.nbytes:
            start -= view.nbytes
        else:
            found.append(view[start:] if start else view)
            start = 0
    return found


def cut(views: Iterable[memoryview], size: int) -> list[memoryview]:
    """The first *size* bytes of *views*, or all there are."""
    found = []
    for view in views:
        if size <= 0:
            break
        part = view if view.nbytes <= size else view[:size]
        found.append(part)
        size -= part.nbytes
    return found
