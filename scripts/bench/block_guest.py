"""Inside the lab: runs the guests of ``block`` one after the other, a JSON line of results each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

#: An emulated host now and then loses a guest's wake-up; the guest then gets another chance.
ATTEMPTS = 3


def one(run: dict[str, Any], job: dict[str, Any], image: str) -> dict[str, Any]:
    command = [word.replace("@IMAGE@", image) for word in run["command"]]
    said, us = [], []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    ) as vmm:
        watchdog = threading.Timer(job["limit"], os.killpg, (vmm.pid, signal.SIGKILL))
        watchdog.start()
        assert vmm.stdout is not None
        for line in vmm.stdout:
            said.append(line)
            if line.startswith("result "):
                transfers, microseconds = map(int, line.split()[1:3])
                us.append(microseconds / transfers)
            if line.startswith(job["line"]):
                os.killpg(vmm.pid, signal.SIGKILL)
        watchdog.cancel()
    return {"name": run["name"], "us": us, "tail": "".join(said)[-2000:]}


def main() -> None:
    job = json.loads(sys.argv[1])
    image = "/tmp/bench-block.img"
    with open(image, "wb") as file:
        piece = os.urandom(1 << 20)
        for _ in range(job["size"] >> 20):
            file.write(piece)
    for run in job["runs"]:
        for _ in range(ATTEMPTS):
            result = one(run, job, image)
            if len(result["us"]) == job["workloads"]:
                break
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
