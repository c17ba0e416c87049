"""What a process that has given up the host asks of its parent: to do what both knew when it was forked.

The parent calls ``begin``; whatever is to be done by name later becomes an ``Offer`` then. A process that it
forks has the same offers, and its socket (``use``): there an offer is a request by its number, with a number
and at most one descriptor, which is answered by a descriptor or an error. No path is ever in a request.
"""

from __future__ import annotations

import errno
import os
import select
from _thread import allocate_lock
from struct import Struct

from pyvmm.host import rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

#: Of a request: the offer's number and the argument.
_REQUEST = Struct("<II")
#: Of an answer: errno, or 0 with a descriptor; what is wrong follows, if that is not errno's text.
_ANSWER = Struct("<i")
_SENTENCE = 300
#: Bytes of a request or an answer at most.
LIMIT = 512
#: Seconds that an answer is waited for: a parent that is stopped does not hold the machine for ever.
PATIENCE = 2.0

_offers: list[Offer] | None = None
_parent: _socket.socket | None = None
_asking = allocate_lock()


def begin() -> None:
    """From now on offers are kept for the processes that this one forks. Idempotent."""
    global _offers
    if _offers is None:
        _offers = []


def use(parent: _socket.socket) -> None:
    """In a forked process: ask by *parent*, a SOCK_SEQPACKET socket, from now on."""
    global _parent
    _parent = parent


def is_there() -> bool:
    """Whether offers are, or will be, carried out by another process."""
    return _offers is not None


class Offer:
    """Something to be done by name: *function(argument, fd)* returns a descriptor or raises OSError.

    *argument* is from 0 to 2**32 - 1, *fd* the caller's, or -1. The descriptor that it returns is the
    caller's to close. Without a parent to ask it is called in this process.
    """

    def __init__(self, function: Callable[[int, int], int]) -> None:
        self.function = function
        self._number = -1
        if _offers is not None and _parent is None:
            self._number = len(_offers)
            _offers.append(self)

    def __call__(self, argument: int = 0, fd: int = -1) -> int:
        """Have it done, wherever that is. Any thread. Raises OSError."""
        if _parent is None or self._number < 0:
            return self.function(argument, fd)
        with _asking:
            return _ask(_parent, self._number, argument, fd)


def _ask(parent: _socket.socket, number: int, argument: int, fd: int) -> int:
    rights.send(parent, _REQUEST.pack(number, argument), fd)
    poll = select.poll()
    poll.register(parent.fileno(), select.POLLIN)
    if not poll.poll(PATIENCE * 1000):
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    message, found = rights.receive(parent, LIMIT)
    if len(message) < _ANSWER.size:
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
    (problem,) = _ANSWER.unpack_from(message)
    if problem or found < 0:
        text = message[_ANSWER.size :].decode(errors="replace")
        raise OSError(problem or errno.EIO, text or os.strerror(problem or errno.EIO))
    return found


def answer(link: _socket.socket, message: bytes, fd: int) -> None:
    """In the parent: carry out a request that came by *link* with *fd*, which is closed. Does not wait."""
    problem, text, found = 0, "", -1
    try:
        number, argument = _REQUEST.unpack(message)
        if _offers is None or number >= len(_offers):
            raise OSError(errno.EINVAL, "")
        found = _offers[number].function(argument, fd)
    except OSError as error:
        problem = error.errno or errno.EIO
        if error.strerror and error.strerror != os.strerror(problem):
            text = error.strerror
    except ValueError:  # no request of ours
        problem = errno.EINVAL
    finally:
        if fd >= 0:
            os.close(fd)
    try:
        rights.send(link, _ANSWER.pack(problem) + text.encode(errors="replace")[:_SENTENCE], found)
    except OSError:
        pass  # it does not read its answers: it asks in vain
    finally:
        if found >= 0:
            os.close(found)
