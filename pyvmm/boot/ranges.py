"""Guest-physical ranges an image occupies or may not touch."""

from __future__ import annotations

from pyvmm.boot.errors import DoesNotFitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.memory.guest import GuestMemory

_ZEROES = bytes(1 << 16)


class Range:
    """A named range of guest-physical addresses: *base* to *end*, exclusive."""

    __slots__ = ("base", "end", "name")

    def __init__(self, name: str, base: int, end: int) -> None:
        self.name = name
        self.base = base
        self.end = end


def check_range(memory: GuestMemory, what: str, base: int, end: int, reserved: Sequence[Range]) -> None:
    """Raise DoesNotFitError for *what*, at *base* to *end* (exclusive), outside RAM or on *reserved*."""
    for taken in reserved:
        if base < taken.end and taken.base < end:
            raise DoesNotFitError(
                f"{what} at {base:#x}-{end - 1:#x} overlaps the {taken.name} at {taken.base:#x}-"
                f"{taken.end - 1:#x}; link the image for 1 MiB or above"
            )
    spans = memory.ram_spans()
    if not any(low <= base and end <= high for low, high in spans):
        top = spans[-1][1] if spans else 0
        if end > top:
            why = f"beyond the end of the guest's memory at {top:#x}"
        else:
            why = "which is not all RAM"
        raise DoesNotFitError(
            f"{what} goes to {base:#x}-{end - 1:#x}, {why}; give the guest more memory or link the image "
            "elsewhere"
        )


def clear(memory: GuestMemory, base: int, size: int) -> None:
    """Zero *size* bytes at *base*. Bytes that are zero are only read: untouched pages stay unallocated."""
    if not size:
        return
    for view in memory.views(base, size, True):
        for at in range(0, len(view), len(_ZEROES)):
            chunk = view[at : at + len(_ZEROES)]
            zeroes = _ZEROES[: len(chunk)]
            if bytes(chunk) != zeroes:
                chunk[:] = zeroes
