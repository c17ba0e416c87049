"""Finds the record of a panic in the log of a Linux kernel: it lies in guest RAM, whatever a console shows.

A text is no evidence: it is in the kernel's image as a format string, in the page cache, in a program's
memory. A record of the log is: the kernel alone writes those, and marks what programs write to /dev/kmsg.
Source: Linux kernel/printk/printk_ringbuffer.c (5.10 and later), kernel/printk/printk.c before that. See
docs/internals/endings.md.
"""

from __future__ import annotations

import time
from ctypes import c_char_p, c_size_t, c_void_p, create_string_buffer
from itertools import islice

from pyvmm.host.libc import function
from pyvmm.host.printable import printable
from pyvmm.memory.host import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyvmm.memory.guest import GuestMemory

#: The beginning of a record: of the panic, and of the last line of a panicked kernel that does not reboot.
PANIC = b"Kernel panic - not syncing: "
END = b"---[ end Kernel panic - not syncing: "
#: Bytes of a record's text at most (struct printk_info, text_len).
TEXT_MAX = 1100
#: Characters of the line for messages at most.
LINE = 300
#: Where a kernel's static data lie, as seen from its code: an image is contiguous, code first. Used where the
#: guest's page tables do not tell.
BEFORE, AFTER = 16 << 20, 80 << 20
#: Bytes of a kernel's image that are searched in any case, and in how many stretches: one has a handful. The
#: bytes from the end of RAM that are, of those that the host has: there is a log of 32 MiB.
NEAR = BEFORE + AFTER
STRETCHES = 64
TOP = 128 << 20
#: The same of the places where the descriptor of a large log must be by the number in its data block, if
#: Linux took the memory in one piece.
EXPECTED = 8 << 20
#: Bytes of a log's text for each record so far, at most, unless it is full. (On average they are 60 to 90.)
RECORD = 256
#: How far from its text the descriptor is searched before the rest of RAM.
ASIDE = 80 << 20
#: Seconds a search may take for each GiB of RAM, one at least. What is searched in any case takes some
#: milliseconds, and more on emulated hosts.
BUDGET = 0.05
PIECE = 4 << 20
#: Bytes that are looked at together for descriptors: where they are all zero there are none. A search of
#: zeros for few bytes is slow.
BLOCK = 256 << 10
#: How many texts are looked at, and how many of them closely; for each of these, how many places that may be
#: a descriptor's number, and how many descriptors. A guest may fill its memory with all of them.
TEXTS = 10_000
CANDIDATES = 8
PLACES = 5000
DESCRIPTORS = 200

# struct printk_info: seq, ts_nsec, text_len, facility, flags and level, ...
_TEXT_LEN = 16
_INFO, _DESC = 88, 24
# struct prb_desc: state_var, which is the number of the data block and in its upper two bits the state
# (committed, finalized), and where that block is.
_STATES = (1, 2)
_NUMBER = (1 << 62) - 1
#: Bytes of the text for each descriptor (PRB_AVGBITS).
_AVERAGE = 32
# Flags of a record that ended with a newline, level 0 (KERN_EMERG).
_EMERGENCY = 0x02
# Data blocks are numbered on from 2**32 less the number of descriptors, a power of two (DESC0_ID).
_NUMBERS = 1 << 32
_COUNTS = {1 << exponent for exponent in range(5, 25)}
# Bytes of a level in front of a text, such as KERN_EMERG: the text is moved over them, and as many of its
# last bytes stay behind it.
_PREFIX = 2
# struct printk_log of older kernels: ts_nsec, len, text_len, dict_len, facility, flags and level; the
# caller's number, where CONFIG_PRINTK_CALLER is set.
_OLD_HEADERS = (16, 20)

# Bit 0 of a byte of mincore(2).
_RESIDENT = bytes(value & 1 for value in range(256))
_ZERO = bytes(BLOCK)

_memmem, _mincore, _memcmp = function("memmem"), function("mincore"), function("memcmp")
_memcmp.argtypes = (c_void_p, c_char_p, c_size_t)  # type: ignore[attr-defined]
_memmem.argtypes = (c_void_p, c_size_t, c_char_p, c_size_t)  # type: ignore[attr-defined]
_memmem.restype = c_void_p  # type: ignore[attr-defined]
_mincore.argtypes = (c_void_p, c_size_t, c_char_p)  # type: ignore[attr-defined]


def find_panic(
    memory: GuestMemory,
    code: int | None = None,
    text: bytes = PANIC,
    data: Sequence[tuple[int, int]] = (),
) -> str:
    """The line of a panic in the log of the kernel in *memory*; empty when none is found.

    :param code: a guest-physical address in the kernel's code, around which its data are if *data* is empty
    :param text: PANIC or END
    :param data: the kernel's data, as stretches ``(first, end)`` of guest-physical memory
    """
    return Search(memory, code, data).line(text)


class Search:
    """One search of *memory* for a record; see ``find_panic``.

    The kernel's data are searched in any case, the end of RAM, and where the descriptor of a text is to be
    expected; the rest while BUDGET lasts. No page is read that the host has not given memory to. ``looked``
    counts the bytes that were compared, ``texts`` the occurrences that were examined.
    """

    def __init__(
        self, memory: GuestMemory, code: int | None = None, data: Sequence[tuple[int, int]] = ()
    ) -> None:
        """*code* is a guest-physical address, *data* are stretches of such; see ``find_panic``."""
        self.looked = 0
        self.texts = 0
        #: Bytes that the host has of what was searched for a text.
        self._present = 0
        self._memory = memory
        self._ram = [(region.gpa, region.end) for region in memory.regions if not region.readonly]
        if not data and code is not None:
            data = [(code - BEFORE & -PAGE_SIZE, code + AFTER & -PAGE_SIZE)]
        self._near = list(islice(_first(_common(data, self._ram), NEAR), STRETCHES))
        size = sum(end - gpa for gpa, end in self._ram)
        self._deadline = time.monotonic() + BUDGET * max(1, size / (1 << 30))

    def line(self, text: bytes) -> str:
        """The line of a record that begins with *text*; empty when none is found."""
        left = CANDIDATES
        for gpa, end in self._pieces():
            for place in self._texts(gpa, end, text):
                self.texts += 1
                if self.texts == TEXTS:
                    return ""
                line = None if place & 3 else self._record(place)
                if line is None:
                    continue
                if line:
                    return line
                left -= 1
                if not left:
                    return ""
        return ""

    def _in_time(self) -> bool:
        return time.monotonic() < self._deadline

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """What to search: the kernel's data, TOP bytes from the end of RAM, the rest while time lasts.

        A log that is larger than the static one is allocated from the end of memory.
        """
        for gpa, end in self._near:
            yield from _ascending(gpa, end, PIECE)
        enough = self._present + TOP
        for gpa, end in reversed(self._ram):
            for piece in _descending(gpa, end, PIECE):
                if self._present >= enough and not self._in_time():
                    return
                if not any(first <= piece[0] and piece[1] <= last for first, last in self._near):
                    yield piece

    def _texts(self, gpa: int, end: int, text: bytes) -> Iterator[int]:
        """Addresses of *text* in ``gpa..end`` but for pages that begin with zeros: none of a log does."""
        for first, last in self._resident(gpa, end):
            words = self._memory.view(first, last - first).cast("Q")[:: PAGE_SIZE // 8]
            self.looked += words.nbytes
            self._present += last - first
            for start, stop in _runs(bytes(map(bool, words)), first):
                yield from self._occurrences(start, stop, text)

    def _occurrences(self, gpa: int, end: int, text: bytes) -> Iterator[int]:
        """Addresses of *text* in ``gpa..end``, of which the host has every page."""
        self.looked += end - gpa
        base = self._memory.translate(gpa)
        at, stop = base, base + end - gpa
        while found := _memmem(at, stop - at, text, len(text)):
            yield gpa + found - base
            at = found + len(text)

    def _resident(self, gpa: int, end: int) -> Iterator[tuple[int, int]]:
        """What of ``gpa..end`` the host has."""
        pages = create_string_buffer((end - gpa) // PAGE_SIZE)
        if not _mincore(self._memory.translate(gpa), end - gpa, pages):
            yield from _runs(pages.raw.translate(_RESIDENT), gpa)

    def _record(self, place: int) -> str | None:
        """The line of the record whose text is at *place*; None where it cannot be one at a glance.

        Empty where it was looked at closely and is none.
        """
        memory = self._memory
        size = min(TEXT_MAX, next(end for gpa, end in self._ram if gpa <= place < end) - place)
        if not memory.contains(place - 32, 32):
            return None
        data = memory.read(place, size)
        old = _old_record_size(memory, place)
        if old:
            return _line(data[:old])
        number = int.from_bytes(memory.read(place - 8, 8), "little")
        if place & 7 or not _NUMBERS - max(_COUNTS) <= number < 1 << 48:
            return None
        text = data.split(b"\0", 1)[0].rstrip(b"\n")
        if text[-_PREFIX:] == text[-2 * _PREFIX : -_PREFIX]:
            text = text[:-_PREFIX]
        return _line(text) if self._has_descriptor(place, number, len(text)) else ""

    def _has_descriptor(self, place: int, number: int, size: int) -> bool:
        """Whether the text at *place* has a descriptor, and is an emergency of the kernel's of *size* bytes.

        *number* is its data block's.
        """
        memory, places, left = self._memory, PLACES, DESCRIPTORS
        # So few that there are no two bytes of zeros or ones in a row, of which a kernel's data are full.
        pattern = number.to_bytes(8, "little")[:3]
        for begin, stop in self._blocks(place, number):
            for found in self._descriptors(begin, stop, pattern):
                places -= 1
                if not places:
                    return False
                if found & 7 or not memory.contains(found, 8):
                    continue
                state = memory.read_u64(found)
                if state & _NUMBER != number or state >> 62 not in _STATES:
                    continue
                if _has_info(memory, found, number, size):
                    return True
                left -= 1
                if not left:
                    return False
        return False

    def _descriptors(self, gpa: int, end: int, pattern: bytes) -> Iterator[int]:
        """Addresses of *pattern* in the block ``gpa..end``, unless it is all zeros."""
        for first, last in self._resident(gpa, end):
            if _memcmp(self._memory.translate(first), _ZERO, last - first):
                yield from self._occurrences(first, last, pattern)

    def _blocks(self, place: int, number: int) -> Iterator[tuple[int, int]]:
        """Where the descriptor of the text at *place* may be, in order.

        The text of the static log is in the kernel's data, and so is its descriptor, mostly below it. That
        of a large log is where its number says; else Linux got no memory in one piece, and it is anywhere.
        """
        if any(gpa <= place < end for gpa, end in self._near):
            yield from _around(place, NEAR, self._near)
        left = EXPECTED
        for first, last in _expected(place, number):
            for piece in _common([(first, last)], self._ram):
                for block in _descending(*piece, BLOCK):
                    left -= block[1] - block[0]
                    if left < 0 and not self._in_time():
                        return
                    yield block
        for block in _around(place, ASIDE, self._ram):
            if not self._in_time():
                return
            yield block
        for gpa, end in reversed(self._ram):
            for block in _descending(gpa, min(end, place - ASIDE & -PAGE_SIZE), BLOCK):
                if not self._in_time():
                    return
                yield block


def _runs(pages: bytes, gpa: int) -> Iterator[tuple[int, int]]:
    """The pages, one a byte, that are 1, as ``(first, end)`` from *gpa* on."""
    page = pages.find(1)
    while page >= 0:
        last = pages.find(0, page)
        last = len(pages) if last < 0 else last
        yield gpa + page * PAGE_SIZE, gpa + last * PAGE_SIZE
        page = pages.find(1, last)


def _has_info(memory: GuestMemory, descriptor: int, number: int, size: int) -> bool:
    """Whether the struct printk_info of the struct prb_desc at *descriptor* is an emergency of the kernel's.

    The array of the one is beside the array of the other: below it in logs that Linux allocates, and in its
    image as the compiler has it. Sequence numbers are the data blocks' *number* less the first one.
    """
    for count in _COUNTS:
        sequence = number - _NUMBERS + count
        if sequence < 0:
            continue
        index = sequence & count - 1
        descriptors = descriptor - _DESC * index
        for infos in (descriptors - _INFO * count, descriptors + _DESC * count):
            info = infos + _INFO * index
            if not memory.contains(info, _INFO):
                continue
            fields = memory.read(info, _TEXT_LEN + 4)
            expected = size.to_bytes(2, "little") + bytes((0, _EMERGENCY))
            if int.from_bytes(fields[:8], "little") == sequence and fields[_TEXT_LEN:] == expected:
                return True
    return False


def _expected(place: int, number: int) -> Iterator[tuple[int, int]]:
    """Where the struct prb_desc of a large log is whose text at *place* has *number*: whole pages.

    Linux takes memory for the texts, then for these, then for the struct printk_info, from the end of free
    memory down (setup_log_buf), so each array lies below the one before. The size of the log is a guess, the
    smallest first.
    """
    for count in sorted(_COUNTS):
        sequence = number - _NUMBERS + count
        if sequence < 0:
            continue
        end = place - _DESC * (count - (sequence & count - 1) - 1)
        begin = end - min(_AVERAGE * count, RECORD * (sequence + 1)) - _DESC
        yield begin & -PAGE_SIZE, end + PAGE_SIZE - 1 & -PAGE_SIZE


def _around(place: int, distance: int, stretches: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Blocks of *stretches* that are nearer to *place* than *distance*: from there down, then up."""
    middle = place + BLOCK & -BLOCK
    for gpa, end in reversed(stretches):
        yield from _descending(max(gpa, place - distance & -PAGE_SIZE), min(end, middle), BLOCK)
    for gpa, end in stretches:
        yield from _ascending(max(gpa, middle), min(end, place + distance & -PAGE_SIZE), BLOCK)


def _ascending(begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """``begin..end`` in pieces of *size* bytes."""
    for at in range(begin, end, size):
        yield at, min(at + size, end)


def _descending(begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """The same from its end down."""
    for at in range(end, begin, -size):
        yield max(at - size, begin), at


def _common(
    stretches: Sequence[tuple[int, int]], ram: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """What of *stretches* is in *ram*."""
    for first, last in stretches:
        for gpa, end in ram:
            if max(first, gpa) < min(last, end):
                yield max(first, gpa), min(last, end)


def _first(stretches: Iterator[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """*stretches* up to *size* bytes."""
    for first, last in stretches:
        if size <= 0:
            return
        yield first, min(last, first + size)
        size -= last - first


def _line(text: bytes) -> str:
    return printable(text.split(b"\n", 1)[0].decode("utf-8", "replace"), LINE)


def _old_record_size(memory: GuestMemory, place: int) -> int:
    """The bytes of the text at *place* by the struct printk_log before it; 0 when there is none."""
    for header in _OLD_HEADERS:
        fields = memory.read(place - header + 8, 8)
        whole, size, extra = (int.from_bytes(fields[at : at + 2], "little") for at in (0, 2, 4))
        emergency = not fields[6] and not fields[7] >> 5
        if emergency and len(PANIC) < size <= TEXT_MAX and 0 <= whole - header - size - extra < 8:
            return size
    return 0
