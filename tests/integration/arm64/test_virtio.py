"""All virtio devices at once on the arm64 machine: found by the device tree, driven, and gone at the end.

What each of them does is in ``tests/integration/test_virtio_*.py``, which run on both architectures.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.virtio.options import make_devices
from tests.support.paused import IMPATIENT, Paused
from tests.support.shell import Shell

#: Seconds a guest gets.
LIMIT = 180
pytestmark = [pytest.mark.arm64, pytest.mark.timeout(LIMIT + 30)]

DRIVERS = [
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
]
LOOK = """
section() { echo "== $1"; }
section drivers; for d in /sys/bus/virtio/devices/*; do basename $(readlink $d/driver); done | sort
section interrupts; grep virtio /proc/interrupts
section disk; dd if=/dev/urandom of=/tmp/f bs=64k count=16 2>/dev/null
dd if=/tmp/f of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches
md5sum </tmp/f; head -c 1048576 /dev/vda | md5sum
section rng; cat /sys/class/misc/hw_random/rng_current; head -c 64 /dev/hwrng | wc -c
section net; cat /sys/class/net/eth0/address
section log; dmesg | grep -i 'unknown\\|virtio.*\\(fail\\|error\\)'
section end
"""


def words(folder: Path) -> dict[str, str | bool]:
    """A device of each kind, as a user asks for it."""
    (folder / "disk").write_bytes(bytes(4 << 20))
    return {
        "disk": str(folder / "disk"),
        "net": "none,mac=02:00:00:00:00:05",
        "vsock": f"5,path={folder}/vsock",
        "balloon": "target=16M",
        "rng": True,
    }


def test_devices_when_there_is_one_of_each_are_found_and_driven(tmp_path: Path) -> None:
    options = [f"--{key}" if text is True else f"--{key}={text}" for key, text in words(tmp_path).items()]
    command = [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), *options, "--exec", LOOK]

    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT + 20, check=False)

    assert (done.returncode, done.stderr) == (0, ""), done
    said = {part.splitlines()[0]: part.splitlines()[1:] for part in done.stdout.split("== ")[1:]}
    assert said["drivers"] == DRIVERS
    assert len(said["interrupts"]) == len(DRIVERS)
    assert [line for line in said["interrupts"] if "Edge" not in line] == []
    assert len(said["disk"]) == 2 and said["disk"][0] == said["disk"][1]
    assert said["rng"] == ["virtio_rng.0", "64"]
    assert said["net"] == ["02:00:00:00:00:05"]
    assert (said["log"], said["end"]) == ([], [])


#: Seconds of a pause. The guest's soft lockup watchdog is set to report a CPU that was stuck for two.
PAUSED = 6


@pytest.mark.parametrize("command", ["poweroff", "reboot"])
def test_guest_when_it_ends_with_its_devices_in_use_is_told_apart(tmp_path: Path, command: str) -> None:
    config = Config(kernel="of the shell", **words(tmp_path))
    shell = Shell(list(make_devices(config.devices)), cpus=2, cmdline=IMPATIENT)
    paused = Paused(shell, PAUSED) if command == "poweroff" else None
    shell.run(
        "ip link set eth0 up; (while :; do cat /dev/hwrng | dd of=/dev/vda bs=64k count=16; done) 2>&- &"
    )

    shell.guest.console.sendline(command)
    ending = shell.guest.wait(LIMIT)

    assert (ending.code, ending.reason, ending.known) == (0, command, "told"), ending
    if paused is not None:
        # Its clocks stood still; the date has whole seconds.
        assert paused.boottime <= paused.elapsed - PAUSED + 0.1
        assert paused.realtime <= paused.elapsed - PAUSED + 1
        assert paused.complaints == []
