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
    :param drain: nothing of the guest's: carries out the port writes that KVM has queued
    :param panicked: the guest's kernel has panicked; True when a crash kernel goes on
    """

    __slots__ = ("debug_exit", "drain", "panicked", "poweroff", "reset", "watchdog")

    def __init__(
        self,
        poweroff: Callable[[], None],
        reset: Callable[[str], None],
        debug_exit: Callable[[int], None],
        watchdog: Callable[[], None],
        panicked: Callable[[bool], None],
        drain: Callable[[], object],
    ) -> None:
        self.poweroff = poweroff
        self.reset = reset
        self.debug_exit = debug_exit
        self.watchdog = watchdog
        self.panicked = panicked
        self.drain = drain
