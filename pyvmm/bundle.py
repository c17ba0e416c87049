"""The modules that every ``pyvmm run`` loads, in one file: read at once, not by name from a file each.

To import a module costs more than to execute it: the interpreter looks for the name in each
directory of ``sys.path``, then opens, reads and decodes a file. The bundle is a cache, as ``__pycache__`` is:
the first start makes it, and a start that finds a changed file makes it again. Without it, or without this
module and the two lines of the launcher that call it, the same modules are imported one by one.

A bundle lies in pyvmm's cache directory as ``start-KEY.bundle``, KEY being the checksum of its line 1. Line 1
names the interpreter and the package it was made for; eight bytes of checksum follow, then a ``marshal``
list of (module, file, stamp of the file, code or None for an extension). The list is in the order in which
the imports were complete: executed in this order, each module finds loaded what it imports.

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
from time import time_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    Stamp = tuple[int, int, int]
    Entry = tuple[str, str, Stamp, CodeType | None]

#: Bundles kept in the cache directory, the newest: each environment, checkout and Python has one.
KEPT = 8
#: Nanoseconds after which a further change of a file gives it another ctime, however coarse its clock.
_SETTLED = 2_000_000_000
_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_INIT = "/__init__.py"


def load() -> None:
    """Load the modules of ``pyvmm run``: from a valid bundle, else by importing them, and then make it."""
    gc.disable()
    try:
        place = path()
        entries = _read(place) if place else None
        if entries is None or not _execute(entries):
            entries = _import()
            if place:
                _store(place, entries)
    finally:
        gc.freeze()  # modules never become garbage: no collection is to look through them
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
    return f"{directory}/start-{source_hash(0, _line()).hex()}.bundle" if directory else ""


def _line() -> bytes:
    """Line 1: everything but the files that the code depends on."""
    platform = getattr(sys.implementation, "_multiarch", sys.platform)
    interpreter = (sys.version, platform, sys.base_exec_prefix, sys.flags.optimize)
    return repr((*interpreter, _PACKAGE)).encode() + b"\n"


def _stamp(status: os.stat_result) -> "Stamp":
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _read(place: str) -> "list[Entry] | None":
    """The entries of the bundle at *place*; None when there is none that this process may execute."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o170022 != 0o100000:  # a file only we may write
            return None
        if not _ours(os.path.dirname(place)):
            return None
        data = memoryview(os.read(fd, status.st_size))
    except OSError:
        return None
    finally:
        os.close(fd)
    line = _line()
    start = len(line) + 8
    if data[: len(line)] != line or data[len(line) : start] != source_hash(0, data[start:]):
        return None
    entries: list[Entry] = marshal.loads(data[start:])
    stat = os.stat
    try:
        return entries if all(_stamp(stat(file)) == stamp for _, file, stamp, _ in entries) else None
    except OSError:
        return None


def _ours(directory: str) -> bool:
    """Whether only this user may put a file into *directory*, or another one in a file's place."""
    status = os.stat(directory)
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _execute(entries: "list[Entry]") -> bool:
    """Make the modules and run their code; False, with none of them loaded, when one raises."""
    modules = sys.modules
    fresh = [entry for entry in entries if entry[0] not in modules]
    try:
        for name, file, _, code in fresh:
            modules[name] = _extension(name, file) if code is None else _empty(name, file)
        for name, _, _, code in fresh:
            if code is not None:
                exec(code, modules[name].__dict__)  # noqa: S102
            package, _, last = name.rpartition(".")
            if package:
                setattr(modules[package], last, modules[name])
    except Exception:  # the ordinary import tells better what is wrong
        for entry in fresh:
            modules.pop(entry[0], None)
        return False
    return True


def _empty(name: str, file: str) -> "ModuleType":
    """A module without contents, with the attributes that the import system gives it."""
    loader = SourceFileLoader(name, file)
    spec = ModuleSpec(name, loader, origin=file)
    spec.has_location = True
    module = type(sys)(name)
    names = module.__dict__
    names["__file__"], names["__loader__"], names["__spec__"] = file, loader, spec
    if file.endswith(_INIT):
        names["__path__"] = spec.submodule_search_locations = [file[: -len(_INIT)]]
        names["__package__"] = name
    else:
        names["__package__"] = name.rpartition(".")[0]
    return module


def _extension(name: str, file: str) -> "ModuleType":
    loader = ExtensionFileLoader(name, file)
    spec = ModuleSpec(name, loader, origin=file)
    spec.has_location = True
    module = loader.create_module(spec)
    module.__file__, module.__loader__, module.__spec__, module.__package__ = file, loader, spec, ""
    loader.exec_module(module)
    return module


def _import() -> "list[Entry]":
    """Import the modules in the ordinary way; an entry for each that was not loaded before."""
    from importlib.machinery import PathFinder

    entries: list[Entry] = []

    class Source(SourceFileLoader):
        def exec_module(self, module: "ModuleType") -> None:
            stamp = _stamp(os.stat(self.path))  # before the code is read: a change in between makes it stale
            code = self.get_code(self.name)
            assert code is not None
            exec(code, module.__dict__)  # noqa: S102
            entries.append((self.name, self.path, stamp, code))

    class Extension(ExtensionFileLoader):
        def exec_module(self, module: "ModuleType") -> None:
            super().exec_module(module)
            entries.append((self.name, self.path, _stamp(os.stat(self.path)), None))

    class Finder(PathFinder):
        @classmethod
        def find_spec(
            cls, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
        ) -> ModuleSpec | None:
            if "." in name and not name.startswith("pyvmm."):
                return None  # ctypes imports a part of its own that needs it half executed
            spec = PathFinder.find_spec(name, path, target)
            for plain, noting in ((SourceFileLoader, Source), (ExtensionFileLoader, Extension)):
                if spec is not None and type(spec.loader) is plain:
                    spec.loader = noting(name, spec.origin or "")
            return spec

    sys.meta_path.insert(0, Finder)
    try:
        from pyvmm.arch import native
        from pyvmm.backends import terminal  # the default console
        from pyvmm.cli import guest_run, main, run

        _ = guest_run, main, run, terminal, native.platform(), native.read_rom()
    finally:
        sys.meta_path.remove(Finder)
    return entries


def _store(place: str, entries: "list[Entry]") -> None:
    """Write the bundle, whole or not at all. Failing is no error: the next start tries again."""
    newest = max((ctime for _, _, (_, ctime, _), _ in entries), default=0)
    if newest > time_ns() - _SETTLED:
        return
    payload = marshal.dumps(entries)
    directory, name = os.path.split(place)
    scratch = f"{directory}/{name.partition('.')[0]}.{os.urandom(8).hex()}.bundle"
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        if not _ours(directory):
            return  # $HOME is another user's, as under sudo -E
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        with open(fd, "wb") as file:
            file.write(_line() + source_hash(0, payload) + payload)
        os.rename(scratch, place)
        _prune(directory)
    except OSError:  # no space, say
        try:
            os.unlink(scratch)
        except OSError:
            pass


def _prune(directory: str) -> None:
    """Remove all bundles but the newest, and with them what a start that was killed left half written."""
    names = (entry.name for entry in os.scandir(directory))
    paths = [
        f"{directory}/{name}" for name in names if name.startswith("start-") and name.endswith(".bundle")
    ]
    for path in sorted(paths, key=os.path.getmtime)[:-KEPT]:
        os.unlink(path)
