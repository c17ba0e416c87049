"""Inside the lab: runs the guests of ``block`` one after the other, on the same file in RAM."""

from __future__ import annotations

import json
import os
import sys

from until import workloads


def main() -> None:
    job = json.loads(sys.argv[1])
    with open(job["image"], "wb") as file:
        piece = os.urandom(1 << 20)
        for _ in range(job["size"] >> 20):
            file.write(piece)
    for run in job["runs"]:
        print(json.dumps(workloads(run)), flush=True)


if __name__ == "__main__":
    main()
