"""One process makes machines, runs them and ends them: descriptors, threads and memory do not grow."""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pyvmm.config import Config
from pyvmm.machine.ending import GUEST_FIRST, STOPPED
from pyvmm.machine.machine import Machine
from tests.soak import child
from tests.support.command import LIMIT, until
from tests.support.firmware_guest import BIN
from tests.support.process import descriptors, resident, threads

#: Machines until what is loaded and kept once is there.
_WARM_UP = 20
#: Bytes that a process may grow by, which is the allocator's own slack, and by how many a machine.
_SLACK, _A_MACHINE = 3 << 20, 1 << 10


def run(seconds: float, seed: int) -> str:
    """Make machines for *seconds*."""
    return rounds(seconds, child.ENDLESS, seed)


def rounds(seconds: float, most: int, seed: int) -> str:
    """At most *most* machines within *seconds*. Raises AssertionError when something of them is left."""
    return child.run(__name__, seconds, most, seed)


def _config(rng: random.Random, folder: Path) -> Config:
    """A guest that ends at once, or never, with devices of chance."""
    choices: list[tuple[str, list[Any]]] = [
        ("disk", [[], [f"{folder}/raw.img"], [f"{folder}/raw.img,snapshot"]]),
        ("hvc", [[], ["pty"], [f"socket:{folder}/hvc"], [f"file:{folder}/hvc.log"]]),
        ("net", [[], ["switch:a", "switch:a"], [f"link:{folder}/link"]]),
        ("vsock", [None, f"7,path={folder}/vsock"]),
        ("rng", [False, True]),
        ("balloon", [None, True]),
        ("console", ["none", "pty", f"file:{folder}/log", f"socket:{folder}/console"]),
        ("cpus", [1, 1, 2]),
    ]
    keys = {name: value for name, values in choices if (value := rng.choice(values))}
    program = rng.choice(["exit", "exit", "spin"])
    return Config(firmware=str(BIN / f"{program}.bin"), memory="16M", timeout=LIMIT, **keys)


def _one(rng: random.Random, folder: Path) -> None:
    config = _config(rng, folder)
    ends = "exit" in str(config.firmware)
    way = rng.choice(["run", "start", "close"]) if ends else rng.choice(["stop", "close"])
    with Machine(config) as machine:
        if way == "run":
            ending = machine.run()
        elif way == "close":
            return  # it was never started
        else:
            machine.start()
            if way == "stop":
                machine.stop()
            ending = machine.wait()
    assert ending.code == (GUEST_FIRST if ends else STOPPED), f"{config}: {ending}"


def _rounds(seconds: float, most: int, seed: int) -> str:
    rng, count = random.Random(seed), 0
    with tempfile.TemporaryDirectory(prefix="soak") as name:
        folder = Path(name)
        (folder / "raw.img").write_bytes(bytes(1 << 20))
        os.environ["XDG_RUNTIME_DIR"] = name
        for _ in range(_WARM_UP):
            _one(rng, folder)
        gc.collect()
        held, running, size = descriptors(), threads(), resident()
        end = time.monotonic() + seconds
        while count < most and time.monotonic() < end:
            _one(rng, folder)
            count += 1
    gc.collect()
    until(lambda: threads() <= running)
    grown = resident() - size
    assert descriptors() == held, f"after {count} machines {descriptors()} descriptors instead of {held}"
    assert grown < _SLACK + count * _A_MACHINE, f"after {count} machines {grown} bytes more are in memory"
    return (
        f"{count} machines in one process: {held} descriptors and {running} threads as before, "
        f"{grown >> 10} KiB more in memory"
    )


if __name__ == "__main__":
    sys.exit(child.main(_rounds))
