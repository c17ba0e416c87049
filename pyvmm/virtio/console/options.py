"""The options of ``--hvc``: each is a port of one console device."""

from __future__ import annotations

from pyvmm.backends.spec import make_backend
from pyvmm.virtio.console.device import MAX_NAME, MAX_PORTS, VirtioConsole
from pyvmm.virtio.console.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.backends.base import CharBackend
    from pyvmm.virtio.options import OptionReader


def from_options(
    readers: Sequence[OptionReader], on_quit: Callable[[], object] | None = None
) -> VirtioConsole:
    """One device of every ``hvc`` that was asked for. Raises ConfigError, BackendError.

    Each has ``to`` (WHERE), ``name``, ``port``. *on_quit* is called at Ctrl-A x on a terminal.
    """
    if len(readers) > MAX_PORTS:
        raise readers[0].error(f"{len(readers)} ports are asked for; {MAX_PORTS} is the most")
    found: list[tuple[CharBackend, str, bool]] = []
    for reader in readers:
        where, name = reader.need("to"), reader.text("name") or ""
        if len(name.encode()) > MAX_NAME or not name.isprintable() or "/" in name:
            raise reader.error(
                f"name={name!r} must be at most {MAX_NAME} printable characters without a slash"
            )
        if name and name in (other for _, other, _ in found):
            raise reader.error(f"name={name} is given twice; choose another one")
        console = not reader.flag("port")
        reader.finish()
        found.append((make_backend(where, what="--hvc"), name, console))
    ports: list[Port] = []
    try:
        for reader, (named, name, console) in zip(readers, found, strict=True):
            backend = reader.open("backend", lambda: named)  # noqa: B023
            backend.on_quit = on_quit
            ports.append(Port(backend, name, console))
    except BaseException:
        for port in ports:
            port.backend.close_unless_kept()
        raise
    # A backend that is no terminal may have input from the start, which Linux drops until it has set the port
    # up; its control messages tell when it has. A terminal has a size, which every kernel reads without them.
    first = ports[0].backend
    return VirtioConsole(ports, multiport=first.gives_input and first.size() is None)
