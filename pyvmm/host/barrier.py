"""The memory barrier between a store and a later load of another place.

Processors let such a load overtake the store (x86 too); plain loads and stores of aligned words
are in order otherwise on x86-64. Source: Linux Documentation/memory-barriers.txt (smp_mb, virt_mb).
"""

from __future__ import annotations

from _thread import allocate_lock
from os import uname

_lock = allocate_lock()
_take, _give = _lock.acquire, _lock.release


def _locked_instruction() -> None:
    # Taking a lock is an atomic read-modify-write, which on x86-64 is a full barrier whatever the
    # lock is made of. Two threads here at once wait for each other a moment, no more.
    _take()
    _give()


def _dmb() -> None:
    _machine_code()


#: Whether this host's loads stay in order among themselves, and its stores.
IN_ORDER = uname().machine == "x86_64"

if IN_ORDER:
    full_barrier = _locked_instruction
else:
    # The acquire and release of a lock order less than this. Eight bytes of code: dmb ish; ret.
    import ctypes
    import mmap

    _page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    _page[:8] = bytes.fromhex("bf3b03d5c0035fd6")
    _machine_code = ctypes.PYFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(_page)))
    full_barrier = _dmb
