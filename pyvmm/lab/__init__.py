"""Emulated KVM hosts: a command runs as if here, on a machine with a real KVM: AMD-V, or ARM's EL2.

>>> from pyvmm import lab
>>> lab.run(["ls", "/dev/kvm"]).stdout
b'/dev/kvm\\n'
"""

from __future__ import annotations

import os
from subprocess import CompletedProcess

from pyvmm.lab.errors import LabError, LabLostError, LabTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyvmm.lab.channel import LabChannel

__all__ = ["LabError", "LabLostError", "LabTimeoutError", "available", "run"]


def available(arch: str = "x86_64") -> tuple[bool, str]:
    """Whether ``run`` can work here, and a sentence that says why not."""
    import shutil

    from pyvmm.errors import PyvmmError
    from pyvmm.lab import image, machine
    from pyvmm.lab.architecture import find

    if os.environ.get("PYVMM_LAB"):
        return False, "this is the lab already; another one inside it would take minutes to boot"
    try:
        machine.find_qemu(arch)
        machine.state_directory()
        if not image.fetched(find(arch)) and shutil.which("apt-get") is None:
            return False, "the lab's kernel comes from Debian's packages and there is no apt-get here"
    except PyvmmError as error:
        return False, str(error)
    return True, ""


def run(
    command: Sequence[str],
    *,
    arch: str = "x86_64",
    input: bytes = b"",
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    memory: int | None = None,
    cpus: int | None = None,
    writable: Sequence[str] = (),
    exposed: Sequence[str] = (),
) -> CompletedProcess[bytes]:
    """Run *command* on the emulated host, started if need be, and give its status and output.

    *timeout* in seconds, from when the host is ready; *env* takes the place of this process's
    environment; *memory* in bytes; *writable*: directories whose changes are to last; *exposed*: hidden paths
    that the command is to see (docs/guide/lab.md).

    Raises LabTimeoutError, LabError, and what fetching the host's kernel raises.
    """
    from pyvmm.exec.request import Request
    from pyvmm.lab import environment, lease, machine
    from pyvmm.lab.pump import Pump, Sink

    wanted = machine.wanted(
        arch, memory, cpus, tuple(writable), exposed=tuple(exposed), words=command, directory=cwd
    )
    variables = environment.variables(env, arch)
    out, err = Sink(), Sink()

    def work(lent: lease.Lease, channel: LabChannel) -> int:
        request = Request(list(command), env=variables, cwd=cwd or os.getcwd(), root=lent.root)
        return Pump(channel, input, out, err).run(request, timeout)

    status = lease.use(wanted, work, lambda state: None, lambda text: None)
    return CompletedProcess(list(command), status, bytes(out.memory), bytes(err.memory))
