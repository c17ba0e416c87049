"""The VMM is killed while its guest makes files: what the guest was told is on the disk, is on the disk."""

from __future__ import annotations

import random
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from tests.support.disk_guest import LIMIT, check, command, expected, ext4, files, tool

#: Guests at a time: one boots while the other writes.
AT_ONCE = 2


def kill_one(seed: int, initrd: Path, place: Path) -> int:
    """Kill a VMM at a moment that *seed* gives; returns how many files the guest had been promised.

    Raises AssertionError when the file system is not clean afterwards, or one of them is missing or wrong.
    """
    moment = random.Random(seed)
    image = ext4(place / f"{seed}.img", "32M")
    lines, delay = moment.randrange(1, 120), moment.uniform(0, 0.05)
    script = "mkdir -p /m; mount -t ext4 /dev/vda /m; disk files /m/made 100000"
    run = command(initrd, script, "--disk", str(image))
    promised = 0
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as vmm:
        assert vmm.stdout is not None and vmm.stderr is not None
        watchdog = threading.Timer(LIMIT, vmm.kill)
        watchdog.start()
        for line in vmm.stdout:
            assert int(line) == promised
            promised += 1
            if promised == lines:
                threading.Timer(delay, vmm.kill).start()
        watchdog.cancel()
        assert promised >= lines, f"seed {seed}: {vmm.stderr.read()!r}"
    print(f"seed {seed}: killed {delay * 1000:.1f} ms after file {lines}, {promised} promised", flush=True)
    check(image)
    found = files(image, "made", place / f"{seed}")
    assert set(range(promised)) <= set(found), f"seed {seed}: files are missing"
    wrong = [name for name in range(promised) if found[name] != expected(name)]
    assert wrong == [], f"seed {seed}: files have other contents"
    image.unlink()
    return promised


def run(seconds: float, seed: int) -> str:
    """Kill VMMs for *seconds*, their seeds *seed* and those after it."""
    end = time.monotonic() + seconds
    promised: list[int] = []
    seeds, one = count(seed), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        place = Path(folder)
        initrd = tool(place)

        def work() -> None:
            while time.monotonic() < end:
                with one:
                    number = next(seeds)
                promised.append(kill_one(number, initrd, place))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for future in [pool.submit(work) for _ in range(AT_ONCE)]:
                future.result()
    return f"{len(promised)} VMMs killed, {sum(promised)} files promised to guests, none lost"
