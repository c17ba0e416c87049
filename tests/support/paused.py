"""A pause of a Linux guest, seen by the guest's own watchdogs."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.shell import Shell

#: What makes the RCU stall detector impatient: the kernel's command line.
IMPATIENT = "rcupdate.rcu_cpu_stall_timeout=3"
#: Seconds after which the soft lockup watchdog reports a CPU is twice this.
_THRESHOLD = 1
#: What a kernel says of a lost clock, a stuck CPU, a stalled grace period or a timer that did not fire.
_SIGNS = ("lockup", "stall", "unstable", "clocksource", "blocked for more than")


class Paused:
    """What a guest, whose kernel has IMPATIENT, reports of a pause of *seconds*.

    :param wait: waits those seconds
    """

    def __init__(self, shell: Shell, seconds: float, wait: Callable[[float], object] = time.sleep) -> None:
        shell.run(f"echo {_THRESHOLD} > /proc/sys/kernel/watchdog_thresh")
        log = shell.run("dmesg")
        begin = time.monotonic()
        before = _clocks(shell)

        shell.guest.pause()
        wait(seconds)
        shell.guest.resume()

        after = _clocks(shell)
        #: Seconds of the host's around all this: at least those of the pause and what the guest ran.
        self.elapsed = time.monotonic() - begin
        # Time for the watchdogs to look, whose periods are under a second and three of these.
        shell.run("sleep 4")
        #: Seconds by which CLOCK_BOOTTIME, then CLOCK_REALTIME went on.
        self.boottime, self.realtime = (new - old for new, old in zip(after, before, strict=True))
        reported = shell.run("dmesg").removeprefix(log).splitlines()
        #: The lines of the kernel's log that report it.
        self.complaints = [line for line in reported if any(sign in line for sign in _SIGNS)]


def _clocks(shell: Shell) -> tuple[float, float]:
    uptime, date = shell.run("cut -d' ' -f1 /proc/uptime; date +%s").split()
    return float(uptime), float(date)
