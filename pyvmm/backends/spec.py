"""From the text that names a backend (``--console TEXT``) to the backend."""

from __future__ import annotations

from pyvmm.backends.base import CharBackend, Detached
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def make_backend(
    spec: str, on_quit: Callable[[], object] | None = None, what: str = "--console"
) -> CharBackend:
    """The backend that *spec* names, not yet opened.

    ``stdio`` (terminal or pipes; *on_quit* is called at Ctrl-A x), ``pty``, ``socket:PATH``,
    ``file:PATH`` (emptied first), ``append:PATH``, ``pipe:PATH`` (PATH.out and PATH.in),
    ``none``. Raises ConfigError, naming *what*, for anything else.
    """
    kind, colon, path = spec.partition(":")
    if kind in ("socket", "file", "append", "pipe"):
        if not path:
            raise ConfigError(f"{what}: {spec!r} names no path; write it like {kind}:/tmp/console")
        if "\0" in path:
            raise ConfigError(f"{what}: {spec!r} has a NUL byte in its path; remove it")
        if kind == "socket":
            from pyvmm.backends.unix import UnixSocket

            return UnixSocket(path)
        if kind == "pipe":
            from pyvmm.backends.fifo import Fifo

            return Fifo(path)
        from pyvmm.backends.file import OutputFile

        return OutputFile(path, append=kind == "append")
    if not colon:
        if kind == "stdio":
            from pyvmm.backends.terminal import Terminal

            return Terminal(on_quit)
        if kind == "pty":
            from pyvmm.backends.pty import Pty

            return Pty()
        if kind == "none":
            return Detached()
    raise ConfigError(
        f"{what}: {spec!r} is none of stdio, pty, socket:PATH, file:PATH, append:PATH, pipe:PATH, none; "
        "choose one"
    )
