"""What a guest's page tables map, read from guest memory: both architectures have tables of the same form.

Source: Intel SDM volume 3, 4.5 "4-level paging"; Arm ARM, D8 "The AArch64 Virtual Memory System
Architecture".
"""

from __future__ import annotations

from itertools import islice
from struct import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyvmm.memory.guest import GuestMemory

_PRESENT = 1
#: Pages and blocks that are looked at: a kernel's image has some thousand, a hostile guest maps any number.
_LEAVES = 24_000


class PageTables:
    """Tables of 8-byte entries that begin at the guest-physical address *root*.

    :param shift: log2 of the bytes that an entry of the first table maps
    :param granule: log2 of the size of a page, and of a table
    :param is_block: whether an entry above the last level maps memory instead of naming a table
    :param address: the bits of an entry that are an address

    The guest writes the tables: nothing in them is trusted, and what is not in its RAM maps nothing.
    """

    def __init__(
        self,
        memory: GuestMemory,
        root: int,
        shift: int,
        granule: int,
        is_block: Callable[[int], bool],
        address: int,
    ) -> None:
        self._memory, self._root, self._shift = memory, root, shift
        self._granule, self._is_block, self._address = granule, is_block, address

    def leaves(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """What is mapped in ``begin..end``, 24,000 pieces at most: virtual, physical address, bytes, entry.

        :param begin: without the bits above those that the tables translate, as *end*
        """
        return islice(self._leaves(self._root, self._shift, 0, begin, end), _LEAVES)

    def _leaves(
        self, table: int, shift: int, base: int, begin: int, end: int
    ) -> Iterator[tuple[int, int, int, int]]:
        first = max(0, begin - base >> shift)
        last = min((1 << self._granule - 3) - 1, end - 1 - base >> shift)
        count = last - first + 1
        if count <= 0 or not self._memory.contains(table + 8 * first, 8 * count):
            return
        entries = unpack(f"<{count}Q", self._memory.read(table + 8 * first, 8 * count))
        for number, entry in enumerate(entries, first):
            if not entry & _PRESENT:
                continue
            at, size = base + (number << shift), 1 << shift
            if shift == self._granule or self._is_block(entry):
                yield at, entry & self._address & -size, size, entry
            else:
                below = entry & self._address & -(1 << self._granule)
                yield from self._leaves(below, shift - self._granule + 3, at, begin, end)


def stretches(leaves: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ``(gpa, size)`` of *leaves* as ``(first, end)``, neighbours joined."""
    found: list[tuple[int, int]] = []
    for gpa, size in leaves:
        if found and found[-1][1] == gpa:
            found[-1] = (found[-1][0], gpa + size)
        else:
            found.append((gpa, gpa + size))
    return found
