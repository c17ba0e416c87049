"""Files to and from a guest as cpio archives: a tree packed piece by piece, and one unpacked from a guest.

The guest's half is ``firmware/guest/init/pack.c`` and ``unpack.c``. Neither class knows of a link: what
``Packer.read`` gives goes to the standard input of ``Request.unpack``, and the standard output of
``Request.pack`` to ``Unpacker.feed``. Both do blocking I/O on files of the host.

An archive's first entry is ``.``, the file or directory itself; the rest lies below it.
"""

from __future__ import annotations

import errno
import os
import stat

from pyvmm.cpio import TRAILER, CpioError, Header, Reader, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

#: Directories in each other, in both directions; the guest's limit, too.
DEPTH_MAX = 100
#: Entries of an archive from a guest.
ENTRIES_MAX = 1 << 20
#: Names of what is left out that are kept; the rest is counted.
LEFT_OUT_MAX = 100
#: Bytes of memory for the directories whose mode and time are set at the end, and of each beside its name.
MADE_MAX = 128 << 20
_MADE_EACH = 512
_PIECE = 1 << 16
_NAME_MAX = 255
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: What of a guest's mode is applied, less the umask: no set-user-ID, set-group-ID or sticky bit.
_MODE = 0o777


def archive_of(data: bytes, mode: int = 0o644, mtime: int = 0) -> bytes:
    """The archive of one file with the content *data*; *mtime*: seconds since 1970.

    Raises CpioError for 4 GiB and more.
    """
    return b"".join(
        (Header(".", stat.S_IFREG | mode, len(data), mtime).pack(1), data, padding(len(data)), _trailer())
    )


class _LeftOut:
    """What was left out: the first LEFT_OUT_MAX names, and how many there are."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.count = 0

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < LEFT_OUT_MAX:
            self.names.append(name)


class Packer:
    """The archive of *source*, a file or a directory, read in pieces.

    A symbolic link given as *source* is followed, those below it are packed as links. Modes and modification
    times (whole seconds) are kept, owners are not. Raises OSError for what cannot be read, CpioError for
    files of 4 GiB and more.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._left_out = _LeftOut()
        self._top = os.fspath(source)
        self._inode = 0
        self._pieces = self._archive()
        self._held = b""

    @property
    def left_out(self) -> list[str]:
        """Names of sockets, FIFOs and devices, which are left out: the first LEFT_OUT_MAX."""
        return self._left_out.names

    @property
    def left_out_count(self) -> int:
        """How many were left out."""
        return self._left_out.count

    def read(self, size: int = _PIECE) -> bytes:
        """The next *size* bytes of the archive, less only at its end; empty after it."""
        pieces, held = [self._held], len(self._held)
        while held < size and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            held += len(piece)
        data = b"".join(pieces)
        self._held = data[size:]
        return data[:size]

    def close(self) -> None:
        """Close the file that is being read. Idempotent."""
        self._pieces.close()

    def _archive(self) -> Generator[bytes]:
        yield from self._entry(self._top, ".", os.stat(self._top), 0)
        yield _trailer()

    def _entry(self, path: str, name: str, status: os.stat_result, depth: int) -> Generator[bytes]:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            yield from self._file(path, name, status, 0 if name == "." else os.O_NOFOLLOW)
        elif stat.S_ISLNK(mode):
            target = os.fsencode(os.readlink(path))
            yield self._header(name, status, len(target))
            yield target + padding(len(target))
        elif stat.S_ISDIR(mode):
            if depth == DEPTH_MAX:
                raise CpioError(f"{path} lies {depth} directories deep, which is the limit")
            yield self._header(name, status, 0)
            for member in sorted(os.listdir(path)):
                inside = os.path.join(path, member)
                below = member if name == "." else f"{name}/{member}"
                yield from self._entry(inside, below, os.lstat(inside), depth + 1)
        elif depth:
            self._left_out.add(path)
        else:
            raise CpioError(f"{path} is no file and no directory, and cannot be copied")

    def _file(self, path: str, name: str, status: os.stat_result, flags: int) -> Generator[bytes]:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
        with open(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CpioError(f"{path} was replaced while it was read; try again")
            piece = file.read(_PIECE) or b""
            # The header has the size, and files of /proc and /sys do not tell theirs.
            size = len(piece) if len(piece) < _PIECE else status.st_size
            yield self._header(name, status, size)
            left = size
            while piece and left:
                piece = piece[:left]
                left -= len(piece)
                yield piece
                piece = file.read(_PIECE) or b"" if left else b""
            if left:
                raise CpioError(f"{path} became {left} bytes shorter while it was read; try again")
            yield padding(size)

    def _header(self, name: str, status: os.stat_result, size: int) -> bytes:
        self._inode += 1
        return Header(name, status.st_mode, size, int(status.st_mtime)).pack(self._inode)


class Unpacker:
    """Makes *destination* out of an archive from a guest, which may be hostile.

    The archive's ``.`` becomes *destination*, with the directories above it; a directory that exists is added
    to, a file that exists is overwritten, and both keep their mode. What another user has put there, into a
    directory for everybody such as /tmp, is refused. Modes are applied less the process's umask. Nothing
    outside of *destination* is written: names are checked, and no symbolic link below it is followed.
    Files, directories and symbolic links are made, never devices, set-user-ID or set-group-ID bits. A
    symbolic link that could lead out of *destination* is not made (``left_out``): only relative targets are,
    whose ``..`` are all at the beginning and no more than there are directories.

    :param limit: bytes of content at most; None for no limit

    Raises CpioError for what is malformed or refused, OSError for what the host cannot do.
    """

    def __init__(self, destination: str | os.PathLike[str], limit: int | None = None) -> None:
        self._left_out = _LeftOut()
        self._umask = _umask()
        self._destination = os.path.abspath(os.fspath(destination))
        self._limit = limit
        self._reader = Reader()
        self._entries = 0
        self._top = -1  # the directory that is filled
        self._path: list[tuple[str, int]] = []  # the directories open below it
        self._made: list[Header] = []  # directories, whose mode and time are set at the end
        self._made_size = 0  # bytes of memory that they take
        self._keeps_mode = False  # the file at hand was there before
        self._entry: Header | None = None  # a file or link whose content is coming
        self._left = 0
        self._file = -1
        self._target = b""

    @property
    def left_out(self) -> list[str]:
        """Names of symbolic links that were not made: the first LEFT_OUT_MAX."""
        return self._left_out.names

    @property
    def left_out_count(self) -> int:
        """How many symbolic links were not made."""
        return self._left_out.count

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Unpack a piece of the archive, of any length. Raises CpioError and OSError."""
        for item in self._reader.feed(data):
            if isinstance(item, Header):
                self._begin(item)
            else:
                self._content(item)

    def finish(self) -> None:
        """The archive is over. Raises CpioError when it was not complete."""
        if not self._reader.ended or not self._entries:
            raise CpioError(f"the archive for {self._destination} ended before its end")
        for header in reversed(self._made):  # those inside before those around them
            if header.name == ".":
                self._set(self._top, header)
                continue
            *parents, name = _parts(header.name)
            directory = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=self._enter(parents))
            try:
                self._set(directory, header)
            finally:
                os.close(directory)
        self.close()

    def close(self) -> None:
        """Close what is open; what was unpacked so far stays. Idempotent."""
        self._close_to(0)
        for fd in (self._file, self._top):
            if fd >= 0:
                os.close(fd)
        self._file = self._top = -1

    def _begin(self, header: Header) -> None:
        self._entries += 1
        if self._entries > ENTRIES_MAX:
            raise CpioError(f"the guest sent more than {ENTRIES_MAX} files for {self._destination}")
        kind = stat.S_IFMT(header.mode)
        if kind == stat.S_IFDIR and header.size:
            raise CpioError("the archive has a directory with content")
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise CpioError(f"the guest sent {header.name!r}, which is no file, directory or symbolic link")
        if kind == stat.S_IFREG and self._limit is not None:
            self._limit -= header.size
            if self._limit < 0:
                raise CpioError(f"the guest sent more for {self._destination} than was to be taken")
        if self._entries == 1:
            self._make_top(header)
            return
        *parents, name = _parts(header.name)
        if self._top < 0:
            raise CpioError(f"the archive has {header.name!r} below a file")
        parent = self._enter(parents)
        if kind == stat.S_IFDIR:
            self._make_directory(parent, name, header)
        elif kind == stat.S_IFREG:
            _remove(name, parent)
            self._write_to(os.open(name, _NEW, 0o600, dir_fd=parent), header)
        else:
            if not 0 < header.size < 4096:
                raise CpioError(f"the archive has a symbolic link of {header.size} bytes")
            self._entry, self._left, self._target = header, header.size, b""

    def _make_top(self, header: Header) -> None:
        path = self._destination
        if header.name != ".":
            raise CpioError("the archive does not begin with its top")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if stat.S_ISREG(header.mode):
            try:
                file = os.open(path, _NEW, 0o600)
            except FileExistsError:
                file = self._existing(os.O_WRONLY)
                self._keeps_mode = True
            self._write_to(file, header)
            return
        if not stat.S_ISDIR(header.mode):
            raise CpioError("the archive's top is no file and no directory")
        try:
            os.mkdir(path, 0o700)
            self._remember(header)
            self._top = os.open(path, os.O_RDONLY | _DIRECTORY)
        except FileExistsError:
            self._top = self._existing(os.O_RDONLY | os.O_DIRECTORY)

    def _existing(self, flags: int) -> int:
        """Open the destination that is there already; a file is made empty."""
        path = self._destination
        try:
            fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CpioError(f"{path} is a symbolic link to nothing; remove it") from None
        except OSError as error:
            if error.errno == errno.ENXIO:  # a FIFO that nobody reads, or a socket
                raise CpioError(f"{path} is there and is no file; remove it, or name another") from None
            raise
        try:
            status, above = os.fstat(fd), os.stat(os.path.dirname(path))
            if above.st_mode & stat.S_ISVTX and status.st_uid not in (0, os.geteuid()):
                raise CpioError(f"{path} belongs to another user; name another")
            if stat.S_ISREG(status.st_mode):
                os.ftruncate(fd, 0)
            elif not stat.S_ISDIR(status.st_mode):
                raise CpioError(f"{path} is there and is no file; remove it, or name another")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _remember(self, header: Header) -> None:
        self._made_size += len(header.name) + _MADE_EACH
        if self._made_size > MADE_MAX:
            raise CpioError(f"the guest sent too many directories for {self._destination}")
        self._made.append(header)

    def _make_directory(self, parent: int, name: str, header: Header) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            self._remember(header)
        except FileExistsError:
            os.close(self._step(name, parent, header.name))

    def _write_to(self, file: int, header: Header) -> None:
        self._entry, self._left, self._file = header, header.size, file
        if not header.size:
            self._end_file()

    def _content(self, data: bytes) -> None:
        assert self._entry is not None, "content comes after its header"
        self._left -= len(data)
        if self._file < 0:
            self._target += data
            if not self._left:
                self._make_link(self._entry, self._target)
            return
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        if not self._left:
            self._end_file()

    def _end_file(self) -> None:
        assert self._entry is not None, "there is a file"
        file, self._file = self._file, -1
        try:
            if self._keeps_mode:
                os.utime(file, (self._entry.mtime, self._entry.mtime))
            else:
                self._set(file, self._entry)
        finally:
            os.close(file)
            self._keeps_mode = False

    def _set(self, fd: int, header: Header) -> None:
        os.fchmod(fd, header.mode & _MODE & ~self._umask)
        os.utime(fd, (header.mtime, header.mtime))

    def _make_link(self, header: Header, target: bytes) -> None:
        *parents, name = _parts(header.name)
        if not _stays_inside(target, len(parents)):
            self._left_out.add(header.name)
            return
        parent = self._enter(parents)
        _remove(name, parent)
        os.symlink(target, os.fsencode(name), dir_fd=parent)
        os.utime(name, (header.mtime, header.mtime), dir_fd=parent, follow_symlinks=False)

    # Directories, each opened in the one above it so that no link is ever followed

    def _enter(self, parents: list[str]) -> int:
        same = 0
        while same < min(len(parents), len(self._path)) and self._path[same][0] == parents[same]:
            same += 1
        self._close_to(same)
        for part in parents[same:]:
            above = self._path[-1][1] if self._path else self._top
            self._path.append((part, self._step(part, above, "/".join(parents))))
        return self._path[-1][1] if self._path else self._top

    def _step(self, name: str, parent: int, whole: str) -> int:
        try:
            return os.open(name, os.O_PATH | _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                raise CpioError(
                    f"the archive needs {whole!r} to be a directory of {self._destination}, and it is none"
                ) from None
            raise

    def _close_to(self, depth: int) -> None:
        while len(self._path) > depth:
            os.close(self._path.pop()[1])


def _parts(name: str) -> list[str]:
    """The components of an entry's name. Raises CpioError for one that leads anywhere else."""
    parts = name.split("/")
    if len(parts) > DEPTH_MAX:
        raise CpioError(f"the archive has a name of {len(parts)} directories in each other")
    for part in parts:
        if part in ("", ".", "..") or len(os.fsencode(part)) > _NAME_MAX:
            raise CpioError(f"the archive has the name {name[:200]!r}, which is not below its top")
    return parts


def _stays_inside(target: bytes, depth: int) -> bool:
    """Whether a link with *target*, *depth* directories below the top, leads to something below the top.

    ".." behind a name could leave by way of another link.
    """
    if target.startswith(b"/") or b"\0" in target:
        return False
    parts = target.split(b"/")
    ups = 0
    while ups < len(parts) and parts[ups] in (b"..", b".", b""):
        ups += 1
    return parts[:ups].count(b"..") <= depth and b".." not in parts[ups:]


def _umask() -> int:
    """The process's umask. umask(2) can only be read by changing it, for all threads."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o077  # a kernel before 4.7


def _remove(name: str, parent: int) -> None:
    """Out of the way with what is not a directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _trailer() -> bytes:
    return Header(TRAILER, 0).pack(0)
