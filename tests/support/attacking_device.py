"""An entropy device that tries the acts of ``sandbox_acts`` when its guest's driver uses it.

In a thread of a vCPU, which starts it, and in the thread that runs its queue. What came of them goes to
standard output, a JSON text a thread.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from pyvmm.host.libc import ioctl
from pyvmm.pykvm.ioctls import KVM_CHECK_EXTENSION, KVM_GET_API_VERSION
from pyvmm.virtio import ids
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.ring.chain import Chain
from tests.support import sandbox_acts

#: Descriptors are below it.
MOST = 256
_TELLING = threading.Lock()


class Attacking(VirtioDevice):
    """Its queue runs in the machine's loop."""

    device_id = ids.ENTROPY
    name = "attacking"
    queue_sizes = (8,)
    #: What it calls the threads that start it and run its queue; empty: it does not try.
    starts, serves = "vcpu", "loop"

    def __init__(self) -> None:
        super().__init__()
        self.tried: set[str] = set()

    def attached(self) -> None:
        """The machine is there, and its process not sealed yet: find its descriptors for requests to KVM."""
        answering = [fd for fd in range(MOST) if ioctl(fd, KVM_CHECK_EXTENSION, 0) >= 0]
        kvm = [fd for fd in answering if ioctl(fd, KVM_GET_API_VERSION, 0) >= 0]
        sandbox_acts.descriptors.update(kvm=kvm[-1], vm=next(fd for fd in answering if fd not in kvm))

    def started(self) -> None:
        """Called in the thread of the vCPU that writes the status."""
        self._try(self.starts)

    def handle(self, queue: int, chain: Chain) -> None:
        self._try(self.serves)
        chain.write(os.urandom(chain.writable_size))

    def _try(self, thread: str) -> None:
        if thread and thread not in self.tried:
            self.tried.add(thread)
            self.told(thread, sandbox_acts.tried())

    def told(self, thread: str, outcomes: dict[str, str]) -> None:
        line = json.dumps({"thread": thread, "id": threading.get_native_id(), "outcomes": outcomes})
        with _TELLING:
            os.write(1, line.encode() + b"\n")


class Apart(Attacking):
    """It says on standard error which acts its own process could do; for ``isolated``."""

    starts, serves = "", "apart"

    def attached(self) -> None:
        """There is no machine in its process."""

    def told(self, thread: str, outcomes: dict[str, str]) -> None:
        done = [name for name, act in sandbox_acts.ACTS.items() if outcomes[name] != act.refused]
        print(f"of {len(outcomes)} acts these were not refused: {done}", file=sys.stderr, flush=True)


class WithOwnThread(Attacking):
    """Its queue runs in a thread of its own."""

    own_thread = True
    starts, serves = "", "device"
