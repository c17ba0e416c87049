"""The campaigns by their names."""

from __future__ import annotations

from tests.soak import block_kill, fuzz, host_faults, kill, machines, parse, pause
from tests.soak.campaign import Campaign

CAMPAIGNS: dict[str, Campaign] = {
    "fuzz": Campaign("programs of a hostile driver against every virtio device", 10, False, fuzz.run),
    "parse": Campaign("broken kernels, firmware, device trees and command lines", 10, False, parse.run),
    "block-kill": Campaign(
        "VMMs killed while their guests write: fsck, and every file that was synced", 30, True, block_kill.run
    ),
    "host-faults": Campaign(
        "every small number of descriptors, processes, bytes of memory and disk: one sentence",
        10,
        False,
        host_faults.run,
    ),
    "kill": Campaign(
        "pyvmm run killed at moments of chance: nothing is left, and the next start works",
        10,
        False,
        kill.run,
    ),
    "machines": Campaign(
        "machines made and ended in one process: its memory and descriptors do not grow",
        3,
        False,
        machines.run,
    ),
    "pause": Campaign(
        "a Linux guest paused for up to a minute: its watchdogs report nothing", 2, True, pause.run
    ),
}
