"""A backend of two halves: an Inlet for its input, an Outlet for its output."""

from __future__ import annotations

from pyvmm.backends.base import CharBackend
from pyvmm.backends.inlet import Inlet
from pyvmm.backends.outlet import Outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Duplex(CharBackend):
    """A backend over file descriptors. A subclass opens and closes them; its ``attach`` makes ``_inlet``.

    Output is dropped while the outlet is not open.
    """

    def __init__(self) -> None:
        super().__init__()
        self._inlet: Inlet | None = None
        self._outlet = Outlet(self, self._broken)

    def write(self, data: bytes) -> None:
        """Send *data*, or keep it until the other end takes it."""
        self._outlet.write(data)

    def offer(self, views: Sequence[memoryview]) -> int:
        """Send what the other end takes of *views* now."""
        return self._outlet.offer(views)

    def resume(self) -> None:
        """The device has room for input again."""
        if self._inlet is not None:
            self._inlet.resume()

    def _broken(self) -> None:
        """The reader of the output has gone. Loop's thread."""

    def _tell(self) -> None:
        """``connected`` has changed."""
        if self.on_connect is not None:
            self.on_connect()
