"""What a command in the guest ended with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import AnyStr, Generic


@dataclass(frozen=True, slots=True)
class Result(Generic[AnyStr]):
    """How a command ended, with all it wrote.

    :param status: the exit status, or 128 + the number of the signal that ended it
    :param stdout: what it wrote to its standard output: ``str``, or ``bytes`` with ``text=False``
    :param stderr: the same of its standard error
    :param signal: the number of the signal that ended it; 0 when it exited
    :param duration: seconds from the request to the end, as seen on the host
    """

    status: int
    stdout: AnyStr
    stderr: AnyStr
    signal: int = 0
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the status is 0."""
        return self.status == 0
