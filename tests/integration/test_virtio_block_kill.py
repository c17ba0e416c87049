"""The VMM is killed while its guest makes files: what the guest was told is on the disk, is on the disk."""

from __future__ import annotations

import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.disk_guest import LIMIT, check, command, expected, ext4, files, tool
from tests.support.native import ARM64

pytestmark = [pytest.mark.hw, pytest.mark.timeout(2 * LIMIT)]

#: How often the VMM is killed, how many times in one test, and how many guests run at a time.
KILLS = 4 if ARM64 else 20
BATCH = 4
AT_ONCE = 2


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool(tmp_path_factory.mktemp("tool"))


def kill_one(number: int, initrd: Path, place: Path) -> int:
    """Kill a VMM while its guest makes files; returns how many the guest had been promised."""
    moment = random.Random(number)
    image = ext4(place / f"{number}.img", "32M")
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
        assert promised >= lines, f"seed {number}: {vmm.stderr.read()!r}"
    print(f"seed {number}: killed {delay * 1000:.1f} ms after file {lines}, {promised} promised")
    check(image)
    found = files(image, "made", place / f"{number}")
    assert set(range(promised)) <= set(found), f"seed {number}: files are missing"
    wrong = [name for name in range(promised) if found[name] != expected(name)]
    assert wrong == [], f"seed {number}: files have other contents"
    return promised


@pytest.mark.parametrize("first", range(0, KILLS, BATCH))
def test_killed_vmm_leaves_a_clean_file_system_with_all_that_was_synced(
    first: int, initrd: Path, tmp_path: Path
) -> None:
    seeds = range(first, first + BATCH)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        promised = list(pool.map(lambda seed: kill_one(seed, initrd, tmp_path), seeds))

    assert len(promised) == BATCH
