"""The control socket of ``pyvmm run``, made when the guest has started: its start pays nothing for it."""

from __future__ import annotations

from pyvmm.backends.base import Detached
from pyvmm.cli.messages import message
from pyvmm.guest.control import ControlServer, Target
from pyvmm.guest.port import ExecPort
from pyvmm.guest.registry import RegistryError, claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.backends.base import CharBackend
    from pyvmm.config import Config
    from pyvmm.exec.client import ExecClient
    from pyvmm.guest.registry import Claim
    from pyvmm.loop import Loop
    from pyvmm.machine.ending import Ending
    from pyvmm.machine.machine import Machine

#: How often, and after how many seconds again, a name is looked for that is not the user's choice.
_TRIES = 5
_PAUSE = 0.5


class Served:
    """The control socket of one ``pyvmm run``, over all the guest's restarts. Loop's thread.

    :param named: whether the guest's name is the user's choice: it is taken now. Raises NameTakenError
    """

    def __init__(self, loop: Loop, config: Config, named: bool) -> None:
        self._loop = loop
        self._config = config
        self._claim = _claimed(config.name) if named else None
        self._server: ControlServer | None = None
        #: The client of the exec channel, or why there is none.
        self.commands: Callable[[], ExecClient | str] = lambda: (
            "it runs no commands for others: only pyvmm run's default guest and pyvmm.Guest do"
        )
        self._machine: Machine
        self._backend: CharBackend
        self._tries = 0 if named else _TRIES

    def channel(self) -> dict[str, Any]:
        """What the next machine is to be given so that its default guest runs commands for others."""
        port = ExecPort()
        self.commands = lambda: port.client if port.error is None else str(port.error)
        self._loop.call_soon(port.client.connect)
        return {"channel": port.serial, "devices": [port.device], "console_shell": True}

    def uses(self, machine: Machine, console: CharBackend) -> None:
        """From now on the guest is *machine*, its serial console *console*."""
        self._machine, self._backend = machine, console

    def serve(self) -> None:
        """The guest has started: listen."""
        if self._claim is None:
            if not self._tries:
                return
            self._tries -= 1
            try:
                self._claim = claim(None, patience=0)
            except RegistryError:  # locked by another process this moment, or no place for sockets
                self._loop.call_later(_PAUSE, self.serve)
                return
        target = Target(self._claim.name, self._config, lambda: self._machine, self.commands, self._console)
        self._server = ControlServer(self._loop, self._claim, target)
        self._server.listen()

    def close(self, ending: Ending | None) -> None:
        """The guest has ended for good."""
        self._tries = 0
        if self._server is not None:
            self._server.close(ending)
        elif self._claim is not None:
            self._claim.close()

    def _console(self) -> Detached | str:
        backend = self._backend
        if self._config.kernel_console != "ttyS0":
            ports = [port for console in self._machine.consoles for port in console.ports if port.console]
            backend = ports[0].backend if ports else backend
        if isinstance(backend, Detached):
            return backend
        return f"its console is {backend.describe()} of its own process; use that"


def _claimed(name: str) -> Claim | None:
    """The name that the user has chosen. Raises NameTakenError; None, said, where there can be no socket."""
    try:
        return claim(name)
    except RegistryError as error:
        message(f"no other process can reach this guest: {error}")
        return None
