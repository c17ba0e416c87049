"""The process of a device of the user's that runs apart from its VMM: it serves that alone, confined."""

from __future__ import annotations

import json
import os
import socket

from pyvmm.errors import PyvmmError
from pyvmm.host import exceptions
from pyvmm.host.child import FIRST_FD
from pyvmm.host.privileges import dies_with_parent, end_with_parent
from pyvmm.loop import Loop
from pyvmm.virtio import user_device
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.vhost.server.backend import event_signaller
from pyvmm.virtio.vhost.server.sandbox import DeviceSandbox
from pyvmm.virtio.vhost.server.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.virtio.device import VirtioDevice

#: The exit status after a defect of the device's.
_FAILED = 6


def main(text: str) -> None:
    """Serve the device of the task *text* on descriptor FIRST_FD until the front end disconnects."""
    task = json.loads(text)
    sock = socket.socket(fileno=FIRST_FD)
    sock.set_inheritable(False)
    try:
        device = user_device.make(user_device.load_class(task["class"]), task["arguments"])
        if device.external:
            raise DeviceError(f"{device.name} is served by another process already; leave isolated out")
        failure = _serve(device, sock)
    except PyvmmError as error:
        _tell(sock, {"error": str(error), "code": error.exit_code})
        return
    if failure is not None:
        if isinstance(failure, PyvmmError):
            reason = str(failure)
        else:
            reason = f"{exceptions.raised_at(failure)}: {exceptions.describe(failure)}"
        print(f"it failed in {reason}", flush=True)  # where the VM process looks for what it has said
        os._exit(_FAILED)


def _serve(device: VirtioDevice, sock: socket.socket) -> Exception | None:
    """Serve *device* to its end; the defect that it ended with."""
    failure: list[Exception] = []
    with Loop() as loop:

        def failed(error: Exception) -> None:
            failure.append(error)
            loop.stop()

        sandbox, signaller = DeviceSandbox(device, "leave isolated out"), event_signaller()
        dies, parent = dies_with_parent(), os.getppid()
        sandbox.enter()
        if dies:  # a new user, and a new user namespace, forget it
            end_with_parent()
            if os.getppid() != parent:
                os._exit(_FAILED)  # it has ended meanwhile
        device.runtime.attach(loop)
        session = Session(device, sock, loop, lambda _: loop.stop(), failed, signaller)
        sandbox.seal()
        _tell(sock, _description(device, sandbox.lacking))
        try:
            loop.run()
        finally:
            session.close()
            device.runtime.close()
            signaller.close()
    return failure[0] if failure else None


def _description(device: VirtioDevice, lacking: Sequence[str]) -> dict[str, object]:
    return {
        "device_id": device.device_id,
        "name": device.name,
        "queue_sizes": list(device.queue_sizes),
        "config": len(device.config),
        "lacking": list(lacking),
    }


def _tell(sock: socket.socket, what: dict[str, object]) -> None:
    try:
        sock.sendall(json.dumps(what).encode() + b"\n")
    except OSError:
        pass  # the front end is gone
