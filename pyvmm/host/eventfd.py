"""Signalling an eventfd that another process holds too, without ever waiting for that process.

Sources: eventfd(2), io_submit(2) and Linux include/uapi/linux/aio_abi.h.

The flags of an open file belong to all who hold it: the other process can clear O_NONBLOCK, and can raise the
counter to its maximum, from where on write(2) blocks. An eventfd has no write with RWF_NOWAIT. The kernel
itself adds to the counter without waiting (eventfd_signal), for KVM_IOEVENTFD for example; a program has it
do that by an asynchronous request whose completion signals the eventfd (IOCB_FLAG_RESFD). The request here is
a poll of a file that is always ready, so it is complete when io_submit returns.
"""

from __future__ import annotations

import errno
import os
from ctypes import PyDLL, addressof, byref, c_long, c_ulong, c_void_p, create_string_buffer, get_errno
from select import POLLIN
from struct import Struct

from pyvmm.host.syscalls import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: ``struct iocb { __u64 aio_data; __u32 aio_key; __kernel_rwf_t aio_rw_flags; __u16 aio_lio_opcode;``
#: ``__s16 aio_reqprio; __u32 aio_fildes; __u64 aio_buf; __u64 aio_nbytes; __s64 aio_offset;``
#: ``__u64 aio_reserved2; __u32 aio_flags; __u32 aio_resfd; }``
_IOCB = Struct("=QIIHhIQQqQII")
_IOCB_CMD_PREAD, _IOCB_CMD_POLL = 0, 5
_IOCB_FLAG_RESFD = 1
#: Bytes of a ``struct io_event``.
_EVENT = 32
#: Completions fetched at once, when their ring is full.
_REAP = 64
#: Attempts before a signal is lost: the ring has room after the first, unless other threads fill it.
_ATTEMPTS = 16


class EventSignaller:
    """Adds 1 to eventfds that other processes share. Any thread; not in a child made by fork.

    Raises OSError, whose ``strerror`` says what to do, when the kernel gives no context for asynchronous
    requests: fs.aio-max-nr is used up, or it was built without CONFIG_AIO.
    """

    def __init__(self) -> None:
        # Other Python threads wait during a call, which takes a microsecond and never blocks.
        self._syscall = PyDLL(None, use_errno=True)["syscall"]
        self._syscall.restype = c_long
        calls = "io_setup", "io_destroy", "io_submit", "io_getevents"
        setup, destroy, submit, events = (c_long(number(call)) for call in calls)
        self._destroy, self._submit, self._events = destroy, submit, events
        context = c_ulong(0)
        if self._syscall(setup, c_long(1), byref(context)):
            problem = get_errno()
            raise OSError(
                problem,
                f"another process's eventfds cannot be signalled: io_setup: {os.strerror(problem)}; raise "
                "this host's limit (sysctl fs.aio-max-nr)",
            )
        self._context = c_ulong(context.value)
        self._ready = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        unread, self._write_only = os.pipe2(os.O_CLOEXEC)
        os.close(unread)

    def is_eventfd(self, fd: int) -> bool:
        """Whether the open file *fd* is one; nothing is read from it or written to it.

        The kernel looks at the file that a request is to signal before it refuses the request, which is to
        read from a file that is not open for reading: EBADF, and EINVAL where the first is no eventfd.
        """
        iocb = create_string_buffer(
            _IOCB.pack(0, 0, 0, _IOCB_CMD_PREAD, 0, self._write_only, 0, 0, 0, 0, _IOCB_FLAG_RESFD, fd),
            _IOCB.size,
        )
        answer = self._syscall(self._submit, self._context, c_long(1), (c_void_p * 1)(addressof(iocb)))
        return bool(answer < 0 and get_errno() == errno.EBADF)

    def signal(self, fd: int) -> Callable[[], None]:
        """What signals eventfd *fd* when it is called; nothing happens when that file is no eventfd.

        Not to be called once *fd* is closed.
        """
        iocb = create_string_buffer(
            _IOCB.pack(0, 0, 0, _IOCB_CMD_POLL, 0, self._ready, POLLIN, 0, 0, 0, _IOCB_FLAG_RESFD, fd),
            _IOCB.size,
        )
        one, requests = c_long(1), (c_void_p * 1)(addressof(iocb))
        syscall, submit, context = self._syscall, self._submit, self._context

        def signal() -> None:
            if syscall(submit, context, one, requests) != 1:
                self._again(iocb, requests)

        return signal

    def close(self) -> None:
        """Signal no more. Idempotent."""
        fd, self._ready = self._ready, -1
        if fd >= 0:
            self._syscall(self._destroy, self._context)
            os.close(fd)
            os.close(self._write_only)

    def _again(self, iocb: object, requests: object) -> None:
        """The ring of completions is full: fetch them, and submit again. *requests* points to *iocb*."""
        for _ in range(_ATTEMPTS):
            if get_errno() != errno.EAGAIN:
                return
            done = create_string_buffer(_EVENT * _REAP)
            self._syscall(self._events, self._context, c_long(0), c_long(_REAP), done, None)
            if self._syscall(self._submit, self._context, c_long(1), requests) == 1:
                return
