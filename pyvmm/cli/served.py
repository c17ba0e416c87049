"""What other processes ask of the guest of ``pyvmm run``, in its VM process.

It is loaded by the first of them: the start of a guest pays nothing for it.
"""

from __future__ import annotations

from pyvmm.backends.base import Detached
from pyvmm.guest.control import ControlServer, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.loop import Loop
    from pyvmm.machine.machine import Machine


def control_server(
    loop: Loop,
    name: str,
    pid: int,
    config: Config,
    machine: Callable[[], Machine],
    backend: Callable[[], CharBackend],
    commands: Callable[[], ExecClient | str],
) -> ControlServer:
    """A server for the clients of guest *name*, whose process is *pid* to its user.

    *machine* and *backend*, which its serial console is connected to, are those of now; *commands* as in
    ``Target``.
    """

    def console() -> Detached | str:
        connected = backend()
        if config.kernel_console != "ttyS0":
            ports = [port for one in machine().consoles for port in one.ports if port.console]
            connected = ports[0].backend if ports else connected
        if isinstance(connected, Detached):
            return connected
        return f"its console is {connected.describe()} of its own process; use that"

    return ControlServer(loop, Target(name, pid, config, machine, commands, console))
