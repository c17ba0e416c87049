"""Inside the lab: a guest that ``guest`` drives, and what is timed in it."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyvmm

TIMES = 15


def seconds(action: Callable[[], object]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def main() -> None:
    job = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        port = f"{folder}/port"
        file = Path(folder, "file")
        with pyvmm.Guest(
            memory="640M", cmdline="console=ttyS0 quiet panic=-1", hvc=f"socket:{port},name=raw,port"
        ) as guest:
            guest.wait_ready(120)
            guest.check("mkdir /tmp/bench; mount -t tmpfs -o size=300m none /tmp/bench")
            for run in job["runs"]:
                data = os.urandom(1 << 20) * (run["size"] >> 20)
                file.write_bytes(data)
                commands = [seconds(lambda: guest.run(["true"])) for _ in range(TIMES)]
                local = [seconds(lambda: subprocess.run(["true"], check=True)) for _ in range(TIMES)]
                put = seconds(lambda: guest.put(file, "/tmp/bench/put"))
                raw = seconds(lambda data=data: through_port(guest, port, data))
                same = guest.check("cmp /tmp/bench/put /tmp/bench/raw && rm /tmp/bench/*")
                assert same.ok
                result = {
                    "name": run["name"],
                    "command": [statistics.median(commands), statistics.median(local)],
                    "put": [put, raw],
                }
                print(json.dumps(result), flush=True)


def through_port(guest: pyvmm.Guest, path: str, data: bytes) -> None:
    """The bytes as any program of a host and a guest would pass them."""
    name = guest.check("cd /sys/class/virtio-ports; grep -lx raw */name").stdout.partition("/")[0]
    copy = f"dd if=/dev/{name} of=/tmp/bench/raw bs=1M count={len(data) >> 20} iflag=fullblock"
    with guest.spawn(copy) as reader, socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(data)
        assert reader.wait(300) == 0


if __name__ == "__main__":
    main()
