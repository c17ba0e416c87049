"""Making KVM_RUN return, from another thread.

A real-time signal is blocked in the vCPU's thread and unblocked by KVM inside KVM_RUN only
(KVM_SET_SIGNAL_MASK): it ends KVM_RUN with EINTR, runs no handler, stays pending and is
cleared. Python's ``signal`` module is not needed, so any thread may run a vCPU. ``immediate_exit``
is for the time outside KVM_RUN. Source: Linux Documentation/virt/kvm/api.rst, 4.30 and section 5.
"""

from __future__ import annotations

import _thread
from ctypes import byref, c_int, c_long, c_uint64, get_errno
from errno import EINTR
from os import getpid, strerror

from pyvmm.host.libc import function
from pyvmm.pykvm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm.vcpu import Vcpu

#: The signal: a real-time one that neither the C library nor debuggers use.
KICK_SIGNAL = 40
_KICK_BIT = 1 << KICK_SIGNAL - 1

_SIG_BLOCK = 0
_SIG_SETMASK = 2

# A sigset_t of the C library is 1024 bits; signals are in the first 64.
_SignalSet = c_uint64 * 16
_Timespec = c_long * 2

_KICK_SET = _SignalSet(_KICK_BIT)
_NO_WAIT = _Timespec(0, 0)

_pthread_sigmask = function("pthread_sigmask")
_sigtimedwait = function("sigtimedwait")
_tgkill = function("tgkill")


class Kick:
    """Stops one vCPU.

    Whoever wants the vCPU out writes down why and calls ``kick``; the vCPU's thread, inside
    ``with kick.attached():``, calls ``consume`` when KVM_RUN ended with EINTR and reads what was
    written down after that. So no kick is lost: one that comes before KVM_RUN, or between
    ``consume`` and the next KVM_RUN, makes that one return.
    """

    __slots__ = ("_lock", "_mask_before", "_thread", "_vcpu")

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._lock = _thread.allocate_lock()
        self._thread: int | None = None
        self._mask_before = _SignalSet()

    def attached(self) -> Kick:
        """A context in which the calling thread, and no other, runs the vCPU."""
        return self

    def __enter__(self) -> Kick:
        if self._thread is not None:
            raise KvmError("running the vCPU", 0, "another thread runs it already; wait until that has left")
        before = _SignalSet()
        code = _pthread_sigmask(c_int(_SIG_BLOCK), byref(_KICK_SET), byref(before))
        if code:
            raise KvmError("pthread_sigmask", code, strerror(code))
        self._mask_before = before
        try:
            self._vcpu.set_signal_mask(before[0] & ~_KICK_BIT)
        except BaseException:
            _pthread_sigmask(c_int(_SIG_SETMASK), byref(before), None)
            raise
        self._thread = _thread.get_native_id()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._thread = None
        # Unblocked while pending, the signal would end the process.
        _clear_signal()
        if self._vcpu.fd >= 0:
            self._vcpu.set_signal_mask(None)
        _pthread_sigmask(c_int(_SIG_SETMASK), byref(self._mask_before), None)

    def kick(self) -> None:
        """Make KVM_RUN return EINTR: the present one, or else the next. Any thread."""
        with self._lock:
            if self._vcpu.fd < 0:
                return
            self._vcpu.run8[1] = 1  # immediate_exit
            if self._thread is not None:
                _tgkill(c_int(getpid()), c_int(self._thread), c_int(KICK_SIGNAL))

    def consume(self) -> None:
        """Clear the kick, in the vCPU's thread, after KVM_RUN ended with EINTR."""
        self._vcpu.run8[1] = 0
        _clear_signal()


def _clear_signal() -> None:
    """Remove the pending signal of this thread, however often it is queued."""
    while _sigtimedwait(byref(_KICK_SET), None, byref(_NO_WAIT)) == KICK_SIGNAL or get_errno() == EINTR:
        pass
