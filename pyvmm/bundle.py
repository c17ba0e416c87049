"""The modules of ``pyvmm run`` in one file: read at once, or by an index, not by name from a file each.

To import a module costs more than to execute it: the interpreter looks for the name in each
directory of ``sys.path``, then opens, reads and decodes a file. The bundle is a cache, as ``__pycache__`` is:
the first start makes it (``bundle_writer.py``), and a start that finds a changed file makes it again.
Without it the same modules are imported one by one.

It has three parts:

1. what the parent needs until it forks: ``load`` executes it
2. what a VM process with firmware needs besides: ``load_machine`` executes it there
3. each module of part 2, of ``machine/late.py`` and some more, by itself: executed when it is imported, also
   without a file system after ``settle``

A bundle lies in pyvmm's cache directory as ``start-KEY.bundle``, KEY being the checksum of its line 1. Line 1
names the interpreter, the module path and the package it was made for, and the bundle's format. The checksum
and the length of the head follow, then the head, then pieces of ``marshal`` data. A piece is known by its
offset from the head's end, its length and its checksum. The head is a ``marshal`` tuple:

- part 1: a list of (module, file, stamp of the file, whether it is an extension), in the order in which
  the imports were complete: executed in this order, each module finds loaded what it imports; and the pieces
  with its code, each a list of code objects, None for an extension, in the same order
- part 2, likewise
- the files that make bundles, each with its stamp
- the piece with the index of part 3: module to (file, stamp, piece with its code, or None for an extension)
- the path of byte code whose module is missing in part 3, and will be there once that exists; or ""

Only what this user wrote is executed: a file that belongs to another user, or that others may write, is not
read, nor one in such a directory. A file whose stamp (mtime, ctime, size) is not the recorded one makes the
whole bundle stale.
"""

import gc
import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, SourceFileLoader
from _imp import source_hash  # the checksum of hash-based .pyc files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType

    Stamp = tuple[int, int, int]
    Piece = tuple[int, int, bytes]  # offset, length, checksum
    Part = tuple[list[tuple[str, str, Stamp, bool]], list[Piece]]
    Index = dict[str, tuple[str, Stamp, Piece | None]]  # None for an extension

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_INIT = "/__init__.py"
_FORMAT = 5
#: Bytes of a checksum, and of the head's length.
CHECKSUM = 8

_bundle: "_Bundle | None" = None


def load() -> bool:
    """Load the parent's modules from the bundle; False, with none of them loaded, where none is valid."""
    return without_collections(_load)


def load_machine() -> None:
    """Load the modules of a VM process from the bundle that ``load`` has found, if any."""
    if _bundle is not None:
        without_collections(_bundle.load_machine)


def settle() -> bool:
    """Whether all of part 3 can be imported from now on without a file system.

    It is so where ``load`` has found a bundle and no file has changed; later changes are not looked at. Loads
    the extension modules among them, whose code is in files alone.
    """
    return _bundle is not None and _bundle.settle()


def descriptor() -> int:
    """The descriptor from which modules are read; -1 where there is none."""
    return -1 if _bundle is None else _bundle.fd


def without_collections(function: "Callable[[], bool]") -> bool:
    """Call *function*, which loads modules: no collection is to see them, for they never become garbage."""
    gc.disable()
    try:
        return function()
    finally:
        gc.freeze()
        gc.enable()


def path() -> str:
    """This interpreter's bundle of this package, made or not; empty where there is no directory for it.

    The directory is that of ``pyvmm.host.cache``, which is not loaded yet: ``$PYVMM_CACHE``, else
    ``$XDG_CACHE_HOME/pyvmm``, else ``~/.cache/pyvmm``.
    """
    directory, base, home = map(os.environ.get, ("PYVMM_CACHE", "XDG_CACHE_HOME", "HOME"))
    if not directory:
        if not (base and base.startswith("/")):
            base = home and home + "/.cache"
        directory = base and base + "/pyvmm"
    return f"{directory}/start-{source_hash(0, line()).hex()}.bundle" if directory else ""


def line() -> bytes:
    """Line 1: everything but the files that the code depends on."""
    platform = getattr(sys.implementation, "_multiarch", sys.platform)
    interpreter = (sys.version, platform, sys.base_exec_prefix, sys.flags.optimize)
    return repr((*interpreter, sys.path, _PACKAGE, _FORMAT)).encode() + b"\n"


def stamp(status: os.stat_result) -> "Stamp":
    """What is another one after a file's change."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def ours(directory: str) -> bool:
    """Whether only this user may put a file into *directory*, or another one in a file's place."""
    status = os.stat(directory)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _load() -> bool:
    global _bundle
    place = path()
    fd = _open(place) if place else -1
    if fd < 0:
        return False
    head = _head(fd)
    if head is not None:
        bundle = _Bundle(place, fd, *head)
        sys.meta_path.insert(-1, bundle)  # behind the finders of built-in and frozen modules
        if bundle.load_parent():
            _bundle = bundle
            return True
        sys.meta_path.remove(bundle)
    os.close(fd)
    return False


def _open(place: str) -> int:
    """A descriptor of the bundle at *place*, 3 or more; -1 when this process may execute none there."""
    fds = []
    try:
        fds.append(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
        while fds[-1] < 3:  # the number of a standard file that is closed, which is not ours
            fds.append(os.dup(fds[-1]))
        status = os.fstat(fds[-1])
        only_ours = status.st_uid == os.geteuid() and status.st_mode & 0o170022 == 0o100000
        if only_ours and ours(os.path.dirname(place)):
            return fds.pop()
    except OSError:
        pass
    finally:
        for fd in fds:
            os.close(fd)
    return -1


def _head(fd: int) -> "tuple[int, Part, Part, Piece, bool] | None":
    """What ``_Bundle`` is made of; None when the bundle is not valid, or a file has changed."""
    first = line()
    start = len(first) + 2 * CHECKSUM
    try:
        prefix = os.pread(fd, start, 0)
        checksum, length = prefix[len(first) : -CHECKSUM], int.from_bytes(prefix[-CHECKSUM:], "little")
        size = os.fstat(fd).st_size
        if not prefix.startswith(first) or start + length > size:
            return None
        data = os.pread(fd, length, start)
        if checksum != source_hash(0, data):
            return None
        parent, machine, makers, index, wanting = marshal.loads(data)
        start += length
        if size != start + index[0] + index[1]:  # cut
            return None
        stat = os.stat
        for part in (parent[0], machine[0], makers):
            if not all(stamp(stat(module[1])) == module[2] for module in part):
                return None
        if wanting and os.path.exists(wanting):
            return None
    except OSError:
        return None
    return start, parent, machine, index, not wanting


def _unload(names: set[str]) -> None:
    modules = sys.modules
    for name in names:
        modules.pop(name, None)
        package, _, last = name.rpartition(".")
        if package in modules:  # ``from package import last`` would find it there
            vars(modules[package]).pop(last, None)


def _empty(name: str, file: str) -> "ModuleType":
    """A module without contents, with the attributes that the import system gives it."""
    spec = _spec(name, file, SourceFileLoader(name, file))
    module = type(sys)(name)
    names = module.__dict__
    names["__file__"], names["__loader__"], names["__spec__"] = file, spec.loader, spec
    if spec.submodule_search_locations is not None:
        names["__path__"] = spec.submodule_search_locations
        names["__package__"] = name
    else:
        names["__package__"] = name.rpartition(".")[0]
    return module


def _spec(name: str, file: str, loader: SourceFileLoader) -> ModuleSpec:
    spec = ModuleSpec(name, loader, origin=file)
    spec.has_location = True
    if file.endswith(_INIT):
        spec.submodule_search_locations = [file[: -len(_INIT)]]
    return spec


def _extension(name: str, file: str) -> "ModuleType":
    loader = ExtensionFileLoader(name, file)
    spec = ModuleSpec(name, loader, origin=file)
    spec.has_location = True
    module = loader.create_module(spec)
    module.__file__, module.__loader__, module.__spec__, module.__package__ = file, loader, spec, ""
    loader.exec_module(module)
    return module


class _Bundle:
    """A bundle whose part 1 is loaded: the finder in ``sys.meta_path`` before the one that looks for files.

    :param fd: open as long as the process
    :param start: where the head ends
    :param parent: part 1
    :param machine: part 2
    :param index: the piece with the index of part 3
    :param complete: whether no module of part 3 is left out
    """

    def __init__(
        self,
        place: str,
        fd: int,
        start: int,
        parent: "Part",
        machine: "Part",
        index: "Piece",
        complete: bool,
    ) -> None:
        self.fd = fd
        self._place = place
        self._start = start
        self._parent = parent
        self._machine = machine
        self._where = index
        self._complete = complete
        self._index: Index | None = None
        self._settled = False
        self._path = sys.path[:]

    def load_parent(self) -> bool:
        """Execute part 1; False, with none of it loaded, when that cannot be."""
        return self._load(self._parent)

    def load_machine(self) -> bool:
        """Execute part 2, without what is loaded already; False as for part 1."""
        return self._load(self._machine)

    def _load(self, part: "Part") -> bool:
        entries, pieces = part
        modules = sys.modules
        fresh = {name for name, _, _, _ in entries if name not in modules}
        try:
            for name, file, _, extension in entries:
                if name in fresh:
                    modules[name] = _extension(name, file) if extension else _empty(name, file)
            remaining = iter(entries)
            # A piece is read when the one before is executed, into the same memory: new pages cost most.
            for piece in pieces:
                data = self.read(piece)
                if data is None:
                    raise ValueError
                for code, (name, _, _, _) in zip(marshal.loads(data), remaining):  # noqa: B905
                    if name not in fresh:
                        continue
                    if code is not None:
                        exec(code, modules[name].__dict__)  # noqa: S102
                    package, _, last = name.rpartition(".")
                    if package:
                        setattr(modules[package], last, modules[name])
        except Exception:  # the ordinary import tells better what is wrong
            _unload(fresh)
            self._discard()
            return False
        return True

    def settle(self) -> bool:
        """See the function of this name."""
        modules = sys.modules
        if not self._complete:
            return False
        for name, (file, recorded, piece) in self._all().items():
            if name in modules:
                continue
            if not self._unchanged(file, recorded):
                return False
            if piece is None:
                try:
                    __import__(name)
                except ImportError:
                    return False
        self._settled = bool(self._index)
        return self._settled

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        """The import system's question for a module."""
        entry = self._all().get(name)
        if entry is None:
            return None
        file, recorded, piece = entry
        if piece is None or not (
            self._settled or (self._found(file, path) and self._unchanged(file, recorded))
        ):
            return None
        return _spec(name, file, _Loader(name, file, self, piece))

    def _found(self, file: str, path: "Sequence[str] | None") -> bool:
        """Whether *file* is where the import system would look, and not in a place of the user's own."""
        if path is None:
            return sys.path == self._path
        return any(file.startswith(folder + "/") for folder in path)

    def read(self, piece: "Piece") -> bytes | None:
        """What the bundle has there; None when that is damaged."""
        offset, length, checksum = piece
        try:
            data = os.pread(self.fd, length, self._start + offset)
        except OSError:
            data = b""
        if source_hash(0, data) == checksum:
            return data
        self._discard()
        return None

    def _all(self) -> "Index":
        """The index, read when it is first needed."""
        if self._index is None:
            data = self.read(self._where)
            if data is not None:
                self._index = marshal.loads(data)
        return self._index or {}

    def _unchanged(self, file: str, recorded: "Stamp") -> bool:
        try:
            if stamp(os.stat(file)) == recorded:
                return True
        except OSError:
            pass
        self._discard()
        return False

    def _discard(self) -> None:
        """Serve nothing any more; the next start makes another bundle."""
        self._index = {}
        try:
            os.unlink(self._place)
        except OSError:
            pass


class _Loader(SourceFileLoader):
    """Has a module's code from *bundle*, or else from its file."""

    def __init__(self, name: str, file: str, bundle: _Bundle, piece: "Piece") -> None:
        super().__init__(name, file)
        self._bundle = bundle
        self._piece = piece

    def get_code(self, fullname: str) -> "CodeType | None":
        """The module's code."""
        data = self._bundle.read(self._piece)
        code: CodeType | None = super().get_code(fullname) if data is None else marshal.loads(data)
        return code
