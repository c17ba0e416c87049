"""Inside the lab: the host's ends of the load, UNIX and AF_VSOCK, and the guests of ``vsock`` in turn."""

from __future__ import annotations

import json
import socket
import sys

from net.guest import give, stream, take
from until import workloads


def main() -> None:
    job = json.loads(sys.argv[1])
    for kind, serve in (("in", give), ("out", take)):
        port = job["ports"][kind]
        beside = socket.socket(socket.AF_UNIX)
        beside.bind(f"{job['path']}_{port}")
        by_kernel = socket.socket(socket.AF_VSOCK)
        by_kernel.bind((socket.VMADDR_CID_ANY, port))
        for listener in (beside, by_kernel):
            listener.listen()
            stream(listener, serve)
    for run in job["runs"]:
        print(json.dumps(workloads(run)), flush=True)


if __name__ == "__main__":
    main()
