"""What platform devices report to the machine, on every architecture."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Events:
    """One callable for each event. Any vCPU's thread and the loop's call them.

    :param poweroff: the guest switched the machine off
    :param reset: the guest asked for a reset; says by what
    :param debug_exit: the guest wrote this byte to the debug-exit port
    :param watchdog: the guest did not feed its watchdog in time
    """

    __slots__ = ("debug_exit", "poweroff", "reset", "watchdog")

    def __init__(
        self,
        poweroff: Callable[[], None],
        reset: Callable[[str], None],
        debug_exit: Callable[[int], None],
        watchdog: Callable[[], None],
    ) -> None:
        self.poweroff = poweroff
        self.reset = reset
        self.debug_exit = debug_exit
        self.watchdog = watchdog
