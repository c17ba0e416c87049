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

    from pyvmm.host.libc import function

    _page = mmap.mmap(-1, mmap.PAGESIZE)
    _page[:8] = bytes.fromhex("bf3b03d5c0035fd6")
    _address = ctypes.addressof(ctypes.c_char.from_buffer(_page))
    # Never writable and executable at once: who can write memory cannot write code.
    _protection = ctypes.c_int(mmap.PROT_READ | mmap.PROT_EXEC)
    if function("mprotect")(ctypes.c_void_p(_address), ctypes.c_size_t(mmap.PAGESIZE), _protection):
        raise OSError(ctypes.get_errno(), "mprotect of the memory barrier's code failed")
    _machine_code = ctypes.PYFUNCTYPE(None)(_address)
    full_barrier = _dmb
