"""Finds the record of a panic in the log of a Linux kernel: it lies in guest RAM, whatever a console shows.

A text is no evidence: it is in the kernel's image as a format string, in the page cache, in a program's
memory. A record of the log is: the kernel alone writes those, and marks what programs write to /dev/kmsg.
Source: Linux kernel/printk/printk_ringbuffer.c (5.10 and later), kernel/printk/printk.c before that. See
docs/internals/endings.md.
"""

from __future__ import annotations

import time
from ctypes import c_char_p, c_size_t, c_void_p, create_string_buffer

from pyvmm.host.libc import function
from pyvmm.host.printable import printable
from pyvmm.memory.host import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.memory.guest import GuestMemory

#: The beginning of a record: of the panic, and of the last line of a panicked kernel that does not reboot.
PANIC = b"Kernel panic - not syncing: "
END = b"---[ end Kernel panic - not syncing: "
#: Bytes of a record's text at most (struct printk_info, text_len).
TEXT_MAX = 1100
#: Characters of the line for messages at most.
LINE = 300
#: Where a kernel's static data lie, as seen from its code: an image is contiguous, code first.
BEFORE, AFTER = 16 << 20, 80 << 20
#: Where the descriptors of a log are, as seen from a text of its: in any case on this side and on that. The
#: descriptors of a large log lie below its text, 112 bytes for each 32 of it: those of 16 MiB begin 75 MiB
#: below its end, those of a larger one further down.
ASIDE = 80 << 20
#: Seconds a search may take for each GiB of RAM, one at least, before it ends with what is near the code.
#: That alone takes 10 to 30 ms, and longer on emulated hosts.
BUDGET = 0.05
PIECE = 4 << 20
#: Bytes that are looked at together for descriptors: where they are all zero there are none.
BLOCK = 256 << 10
#: How many texts are looked at, and how many of them closely; for each of these, how many places that may be
#: in a descriptor, and how many descriptors. A guest may fill its memory with all of them.
TEXTS = 10_000
CANDIDATES = 8
PLACES = 50_000
DESCRIPTORS = 2000

# struct printk_info: seq, ts_nsec, text_len, facility, flags and level, ...
_TEXT_LEN = 16
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


def find_panic(memory: GuestMemory, code: int | None = None, text: bytes = PANIC) -> str:
    """The line of a panic in the log of the kernel in *memory*; empty when none is found.

    :param code: a guest-physical address in the kernel's code: its surroundings are searched first
    :param text: PANIC or END

    What is near *code* is searched in any case, and near a text for its descriptor; the rest while BUDGET
    lasts. No page is read that the host has not given memory to.
    """
    ram = [(region.gpa, region.end) for region in memory.regions if not region.readonly]
    deadline = time.monotonic() + BUDGET * max(1, sum(end - gpa for gpa, end in ram) / (1 << 30))
    texts, left = TEXTS, CANDIDATES
    near = (0, 0) if code is None else (code - BEFORE, code + AFTER)
    for gpa, end in _pieces(ram, near):
        for place in _occurrences(memory, gpa, end, text):
            texts -= 1
            if not texts:
                return ""
            line = None if place & 3 else _record(memory, place, ram, deadline)
            if line is None:
                continue
            if line:
                return line
            left -= 1
            if not left:
                return ""
        if time.monotonic() > deadline and not near[0] <= gpa < near[1]:
            break
    return ""


def _pieces(ram: list[tuple[int, int]], near: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """What to search, in order: what is near the kernel's code, then RAM from its end down.

    A log that is larger than the static one is allocated from the end of memory.
    """
    for gpa, end in ram:
        begin = max(gpa, near[0] & -PAGE_SIZE)
        while begin < min(end, near[1]):
            yield begin, min(begin + PIECE, end)
            begin += PIECE
    for gpa, end in reversed(ram):
        while end > gpa:
            begin = max(gpa, end - PIECE)
            if not (near[0] <= begin and end <= near[1]):
                yield begin, end
            end = begin


def _occurrences(memory: GuestMemory, gpa: int, end: int, text: bytes) -> Iterator[int]:
    """Addresses of *text* in the pages of ``gpa..end`` that the host has."""
    base = memory.translate(gpa)
    pages = (end - gpa) // PAGE_SIZE
    resident = create_string_buffer(pages)
    if _mincore(base, end - gpa, resident):
        return
    present = resident.raw.translate(_RESIDENT)
    page = present.find(1)
    while page >= 0:
        last = present.find(0, page)
        last = pages if last < 0 else last
        start, stop = base + page * PAGE_SIZE, base + last * PAGE_SIZE
        # memmem is fast but where bytes repeat, as zeros do, that are also in a short text.
        if stop - start > BLOCK or _memcmp(start, _ZERO, stop - start):
            while found := _memmem(start, stop - start, text, len(text)):
                yield gpa + found - base
                start = found + len(text)
        page = present.find(1, last)


def _record(memory: GuestMemory, place: int, ram: list[tuple[int, int]], deadline: float) -> str | None:
    """The line of the record whose text is at *place*; None where it cannot be one at a glance.

    Empty where it was looked at closely and is none.
    """
    size = min(TEXT_MAX, next(end for gpa, end in ram if gpa <= place < end) - place)
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
    blocks = _blocks(place, ram, deadline)
    return _line(text) if _has_descriptor(memory, blocks, number, len(text)) else ""


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


def _blocks(place: int, ram: list[tuple[int, int]], deadline: float) -> Iterator[tuple[int, int]]:
    """Where the descriptor of the text at *place* may be, in order: below it, above it, further below.

    Linux puts descriptors below the text, in its image as in the memory that it takes for a large log. What
    is further away than ASIDE is searched until *deadline*.
    """
    below = place + BLOCK & -BLOCK
    for gpa, end in reversed(ram):
        stop = min(end, below)
        while stop > max(gpa, place - ASIDE):
            yield max(gpa, stop - BLOCK), stop
            stop -= BLOCK
    for gpa, end in ram:
        begin = max(gpa, below)
        while begin < min(end, place + ASIDE):
            yield begin, min(begin + BLOCK, end)
            begin += BLOCK
    for gpa, end in reversed(ram):
        stop = min(end, place - ASIDE & -BLOCK)
        while stop > gpa and time.monotonic() < deadline:
            yield max(gpa, stop - BLOCK), stop
            stop -= BLOCK


def _has_descriptor(memory: GuestMemory, blocks: Iterator[tuple[int, int]], number: int, size: int) -> bool:
    """Whether a struct printk_info in *blocks* describes an emergency of the kernel's with *size* bytes.

    Its sequence number is the data block's *number* less the first one.
    """
    places, left = PLACES, DESCRIPTORS
    pattern = size.to_bytes(2, "little") + bytes((0, _EMERGENCY))
    for begin, stop in blocks:
        for found in _occurrences(memory, begin, stop, pattern):
            places -= 1
            info = found - _TEXT_LEN
            if not places:
                return False
            if info & 7 or not memory.contains(info, 8):
                continue
            sequence = int.from_bytes(memory.read(info, 8), "little")
            if sequence - number + _NUMBERS in _COUNTS:
                return True
            left -= 1
            if not left:
                return False
    return False
