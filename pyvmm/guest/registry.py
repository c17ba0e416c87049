"""The running guests of this user, by name: a control socket each, in a directory of the user's own.

A name belongs to whoever listens on its socket. A socket nobody listens on is left from a process that was
killed; whoever finds it removes it, and whoever takes a name that nobody has chosen looks for others of that
kind. A lock of the kernel (flock(2)), which ends with its holder, makes finding and removing, or finding and
binding, one step.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time
from contextlib import contextmanager
from urllib.parse import quote, unquote

from pyvmm.errors import ConfigError, StartError
from pyvmm.host.libc import function
from pyvmm.host.peer import credentials
from pyvmm.host.private import runtime_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of a name, as it stands in the directory, at most: a socket's path is short (unix(7)).
NAME_MAX = 64
#: Seconds to wait for somebody else who looks at the directory.
LOCK_PATIENCE = 2.0
#: Connections that wait to be accepted, and seconds to wait for a place among them.
BACKLOG = 128
CONNECT_PATIENCE = 1.0

_SUFFIX = ".sock"
#: Begins a name that nobody has chosen; the number of the guest's process follows.
_UNNAMED = "guest-"
_LOCK = "lock"
_LOCK_EX, _LOCK_NB = 2, 4

_flock = function("flock")


class NameTakenError(ConfigError):
    """A running guest of this user has the name."""


class NoSuchGuestError(ConfigError):
    """No running guest of this user has the name."""


class RegistryError(StartError):
    """The directory of control sockets cannot be used."""


class NoAnswerError(StartError):
    """The process of the guest accepts no connections."""


class Claim:
    """A name of ours, and its socket for other processes; *folder* is a descriptor of its directory."""

    def __init__(self, name: str, listener: socket.socket, folder: int, file: str) -> None:
        self.name = name
        self.socket = listener
        self._folder = folder
        self._file = file
        self._inode = os.stat(file, dir_fd=folder, follow_symlinks=False).st_ino

    def close_copy(self) -> None:
        """Close what a fork has copied: the name stays the other process's."""
        self.socket.close()
        os.close(self._folder)

    def close(self) -> None:
        """Listen no more and give the name up. Idempotent."""
        if self.socket.fileno() < 0:
            return
        try:
            # While it listens nobody takes it for one that is left, removes it and binds another, which
            # may have its inode's number.
            with _locked(self._folder):
                if os.stat(self._file, dir_fd=self._folder, follow_symlinks=False).st_ino == self._inode:
                    os.unlink(self._file, dir_fd=self._folder)
        except (OSError, RegistryError):
            pass  # whoever finds it removes it
        finally:
            self.socket.close()
            os.close(self._folder)


def claim(name: str | None, patience: float = LOCK_PATIENCE) -> Claim:
    """Take *name* for a guest of this process; without one, a name that is free.

    Waits at most *patience* seconds for somebody else who looks at the names. Raises NameTakenError,
    RegistryError; ConfigError for a name that is too long.
    """
    folder = _open_folder()
    try:
        with _as_registry_error(), _locked(folder, patience):
            if name is not None:
                return _bind(folder, name)
            _remove_stale(folder)
            number = 1
            while True:
                try:
                    return _bind(folder, f"{_UNNAMED}{os.getpid()}" + (f"-{number}" if number > 1 else ""))
                except NameTakenError:
                    number += 1
    except BaseException:
        os.close(folder)
        raise


def check_free(name: str) -> None:
    """Raise NameTakenError when a running guest has *name*, which stays free to be claimed by anybody.

    Raises RegistryError; ConfigError for a name that is too long.
    """
    folder = _open_folder()
    try:
        with _as_registry_error():
            _check_free(folder, name)
    finally:
        os.close(folder)


def connect(name: str) -> socket.socket:
    """A connection to the guest *name*, which does not block.

    Raises NoSuchGuestError, NoAnswerError, RegistryError, and ConfigError for a name that none can have.
    """
    folder = _open_folder()
    try:
        limit = time.monotonic() + CONNECT_PATIENCE
        while True:
            try:
                with _as_registry_error():
                    link = _connect(folder, _file(name))
                break
            except NoAnswerError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.01)
        if link is None:
            with _as_registry_error():
                running = ", ".join(_names(folder)) or "none"
            raise NoSuchGuestError(f"there is no running guest {name!r} of this user; there are: {running}")
        return link
    finally:
        os.close(folder)


def names() -> list[str]:
    """The names of the running guests, sorted. Raises RegistryError."""
    folder = _open_folder()
    try:
        with _as_registry_error():
            return _names(folder)
    finally:
        os.close(folder)


def _open_folder() -> int:
    try:
        path = runtime_directory("pyvmm")
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:  # another one since it was looked at
            os.close(folder)
            raise OSError(errno.EPERM, "it is not a directory of this user alone", path)
        return folder
    except OSError as error:
        raise RegistryError(
            f"{error.filename}: {error.strerror}; remove it, or set XDG_RUNTIME_DIR to a directory of yours"
        ) from None


@contextmanager
def _as_registry_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        raise RegistryError(
            f"the directory of control sockets cannot be used: {where}{error.strerror}; "
            "make room there, or set XDG_RUNTIME_DIR to another directory of yours"
        ) from None


@contextmanager
def _locked(folder: int, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        limit = time.monotonic() + patience
        while _flock(lock, _LOCK_EX | _LOCK_NB):
            number = ctypes.get_errno()
            if number not in (errno.EWOULDBLOCK, errno.EINTR):
                raise RegistryError(f"the names of guests cannot be locked: {os.strerror(number)}")
            if time.monotonic() > limit:
                raise RegistryError(
                    f"another process has had the names of guests locked for {patience:g} s; end that one"
                )
            time.sleep(0.005)
        yield
    finally:
        os.close(lock)


def _file(name: str) -> str:
    try:
        encoded = quote(os.fsencode(name), safe="")
    except UnicodeEncodeError:
        raise ConfigError(f"name: {name!r} cannot be the name of a file; give another one") from None
    if len(encoded) > NAME_MAX:
        raise ConfigError(f"name: {name!r} takes more than {NAME_MAX} bytes; give a shorter one")
    return encoded + _SUFFIX


def _name(file: str) -> str:
    return unquote(file.removesuffix(_SUFFIX), errors="surrogateescape")


def _address(folder: int, file: str) -> str:
    # Short whatever the directory's path is, and the directory that was looked at.
    return f"/proc/self/fd/{folder}/{file}"


def _check_free(folder: int, name: str, locked: bool = False) -> None:
    holder = ""
    try:
        link = _connect(folder, _file(name), locked)
        if link is not None:
            with link:
                holder = f", process {credentials(link)[0]}"
    except NoAnswerError:
        holder = " that does not answer"
    if holder:
        raise NameTakenError(
            f"name: {name!r} is that of a running guest{holder}; give another name, or end that one: "
            f"pyvmm stop {name}"
        )


def _bind(folder: int, name: str) -> Claim:
    """With the lock held."""
    _check_free(folder, name, locked=True)
    file = _file(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(_address(folder, file))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        return Claim(name, listener, folder, file)
    except OSError:
        listener.close()
        raise


def _connect(folder: int, file: str, locked: bool = False) -> socket.socket | None:
    """A connection; None where nobody listens, and then the file is gone too."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    problem = link.connect_ex(_address(folder, file))
    if not problem and credentials(link)[1] == os.geteuid():
        return link
    link.close()
    if problem == errno.ENOENT:
        return None
    if problem == errno.EAGAIN:  # many wait to be accepted
        raise NoAnswerError(f"guest {_name(file)!r} accepts no connections; end its process")
    if problem != errno.ECONNREFUSED:
        raise RegistryError(f"control socket {file}: {os.strerror(problem or errno.EPERM)}")
    if not locked:  # bound this moment, and about to listen?
        with _locked(folder):
            return _connect(folder, file, locked=True)
    os.unlink(file, dir_fd=folder)
    return None


def _remove_stale(folder: int) -> None:
    """Remove the sockets of guests without a chosen name whose processes are gone; with the lock held.

    Nobody asks for such a name again, as for a chosen one.
    """
    for file in os.listdir(folder):
        process = _name(file).removeprefix(_UNNAMED).partition("-")[0]
        if not (file.startswith(_UNNAMED) and process.isdigit()) or os.path.exists(f"/proc/{process}"):
            continue
        try:
            link = _connect(folder, file, locked=True)
        except (OSError, RegistryError, NoAnswerError):
            continue
        if link is not None:  # of another PID namespace
            link.close()


def _names(folder: int) -> list[str]:
    found = []
    for file in os.listdir(folder):
        if not file.endswith(_SUFFIX):
            continue
        try:
            link = _connect(folder, file)
        except RegistryError:
            continue
        except NoAnswerError:
            pass
        else:
            if link is None:
                continue
            link.close()
        found.append(_name(file))
    return sorted(found)
