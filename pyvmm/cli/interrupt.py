"""Ctrl-C while a verb works: an exception, once there is something to tidy up."""

from __future__ import annotations

import _signal  # without the enums of ``signal``


class Interruptible:
    """A context in which Ctrl-C raises KeyboardInterrupt, unless it is ignored or handled already."""

    def __enter__(self) -> None:
        self._before = _signal.getsignal(_signal.SIGINT)
        if self._before == _signal.SIG_DFL:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._before == _signal.SIG_DFL:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
