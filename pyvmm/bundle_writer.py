"""Makes the bundle of ``bundle.py``, in a start that has found none."""

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, PathFinder, SourceFileLoader
from _imp import is_frozen, source_hash
from time import time_ns

from pyvmm import bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import CodeType, ModuleType
    from typing import Any

    from pyvmm.bundle import Index, Part, Piece, Stamp

    Noted = tuple[str, str, Stamp, CodeType | None]

#: Bundles kept in the cache directory, the newest: each environment, checkout and Python has one.
KEPT = 8
#: Nanoseconds after which a further change of a file gives it another ctime, however coarse its clock.
_CLOCK = 2_000_000_000
#: Bytes of code from which a piece is full; its last module may add 30,000. For so many bytes malloc takes
#: memory that was freed before; for 128 KiB it takes new pages each time (M_MMAP_THRESHOLD).
_PIECE = 60_000
#: In the flags of a function's code: it has variables of its own (CO_NEWLOCALS).
_FUNCTION = 2
#: What the default guest, ``--exec`` and other processes make ``pyvmm run`` import, beside ``machine.late``.
ON_DEMAND = (
    "pyvmm.cli.exec",
    "pyvmm.cli.keyboard",
    "pyvmm.cli.local_terminal",
    "pyvmm.cli.report_handler",
    "pyvmm.cli.served",
    "pyvmm.config.toml",
    "pyvmm.guest.control_listener",
    "pyvmm.guest.errors",
    "pyvmm.guest.exec_devices",
    "pyvmm.guest.exec_socket",
    "pyvmm.guest.port",
    "pyvmm.guest.registry",
    "pyvmm.guest.vm_parent",
    "pyvmm.guest.vm_process",
    "pyvmm.images.default_or_host",
    "pyvmm.machine.boot_files",
)


def make() -> None:
    """Import the parent's modules in the ordinary way; make a bundle where there is a directory for it."""
    bundle.without_collections(_make)


def _make() -> bool:
    place = bundle.path()
    noting = _Noting()
    sys.meta_path.insert(0, noting)
    try:
        from pyvmm.cli import main, run

        _ = main, run
        if not place:
            return True
        parents = noting.entries[:]

        from pyvmm.arch import native
        from pyvmm.cli import guest_run
        from pyvmm.host import nonblocking
        from pyvmm.machine import confinement

        _ = guest_run, nonblocking, confinement, native.platform(), native.read_rom()
    finally:
        sys.meta_path.remove(noting)
    _store(place, parents, noting.entries[len(parents) :])
    return True


class _Noting:
    """Notes each module that is imported while it is the first finder in ``sys.meta_path``."""

    def __init__(self) -> None:
        #: In the order in which the imports were complete.
        self.entries: list[Noted] = []

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        """The import system's question for a module."""
        if "." in name and not name.startswith("pyvmm."):
            return None  # ctypes imports a part of its own that needs it half executed
        spec: ModuleSpec | None = PathFinder.find_spec(name, path, target)
        for plain, noting in ((SourceFileLoader, _NotedSource), (ExtensionFileLoader, _NotedExtension)):
            if spec is not None and type(spec.loader) is plain:
                spec.loader = noting(name, spec.origin or "")
                spec.loader.entries = self.entries
        return spec


class _NotedSource(SourceFileLoader):
    entries: "list[Noted]"

    def exec_module(self, module: "ModuleType") -> None:
        stamp = bundle.stamp(os.stat(self.path))  # first: a change after the code is read is one
        code = self.get_code(self.name)
        assert code is not None
        exec(code, module.__dict__)  # noqa: S102
        self.entries.append((self.name, self.path, stamp, code))


class _NotedExtension(ExtensionFileLoader):
    entries: "list[Noted]"

    def exec_module(self, module: "ModuleType") -> None:
        super().exec_module(module)
        self.entries.append((self.name, self.path, bundle.stamp(os.stat(self.path)), None))


class _OnDemand:
    """Modules, found and compiled without being executed, with all that importing them imports.

    What a function imports is not among it.

    :param loaded: modules whose imports were noted, too
    """

    def __init__(self, loaded: "list[Noted]") -> None:
        self.entries: dict[str, Noted] = {entry[0]: entry for entry in loaded}
        #: A module that is left out, for it has no byte code yet: where that will be. Empty: none is.
        self.wanting = ""
        self._specs: dict[str, ModuleSpec | None] = {}

    def add(self, names: "Iterable[str]") -> None:
        """Add the modules *names*, and what they import."""
        todo = list(names)
        while todo:
            name = todo.pop()
            spec = None if name in self.entries else self._find(name)
            if spec is None or spec.origin is None:
                continue
            package, _, _ = name.rpartition(".")
            if package:
                todo.append(package)
            stamp = bundle.stamp(os.stat(spec.origin))
            if isinstance(spec.loader, ExtensionFileLoader):
                self.entries[name] = name, spec.origin, stamp, None
            elif isinstance(spec.loader, SourceFileLoader):
                if self._compiles_later(spec):
                    continue
                code = spec.loader.get_code(name)
                assert code is not None
                self.entries[name] = name, spec.origin, stamp, code
                todo += _imported(code, name if spec.submodule_search_locations else package)

    def _find(self, name: str) -> ModuleSpec | None:
        """Where the module is; None for one that needs no file, or does not exist."""
        if name not in self._specs:
            package, _, _ = name.rpartition(".")
            if package:
                parent = self._find(package)
                path = parent.submodule_search_locations if parent is not None else None
                found = PathFinder.find_spec(name, path) if path is not None else None
            else:
                inside = name in sys.builtin_module_names or is_frozen(name)
                found = None if inside else PathFinder.find_spec(name)
            self._specs[name] = found
        return self._specs[name]

    def _compiles_later(self, spec: ModuleSpec) -> bool:
        """Whether its import will leave byte code: compiling all modules takes this start some seconds."""
        cached = spec.cached or ""
        if sys.dont_write_bytecode or os.path.exists(cached):
            return False
        folder = os.path.dirname(cached)
        if not os.access(folder if os.path.isdir(folder) else os.path.dirname(folder), os.W_OK):
            return False
        self.wanting = self.wanting or cached
        return True


def _imported(code: "CodeType", package: str) -> "Iterable[str]":
    """The names that executing *code* of a module in *package* may import, whether they are modules or not.

    Not those for type checkers, which are under ``if TYPE_CHECKING:``.
    """
    from opcode import opmap, opname

    # Two bytes an instruction; of an argument of more than eight bits, the rest precedes it.
    operations, arguments, names = code.co_code[::2], code.co_code[1::2], code.co_names

    def argument(place: int) -> int:
        value, shift = arguments[place], 8
        while place and operations[place - 1] == opmap["EXTENDED_ARG"]:
            place -= 1
            value |= arguments[place] << shift
            shift += 8
        return value

    def places(name: str, start: int, end: int) -> "Iterable[int]":
        place = operations.find(opmap[name], start, end)
        while place >= 0:
            yield place
            place = operations.find(opmap[name], place + 1, end)

    skipped = range(0)
    if "TYPE_CHECKING" in names:
        for place in places("LOAD_NAME", 0, len(operations)):
            if names[argument(place)] == "TYPE_CHECKING":
                while not opname[operations[place]].startswith("POP_JUMP"):
                    place += 1
                skipped = range(place, place + 1 + argument(place))
    folders = package.split(".") if package and not package.startswith("pyvmm") else []  # ours are absolute
    prefixes = ["", *(".".join(folders[:depth]) + "." for depth in range(len(folders), 0, -1))]
    imports = [place for place in places("IMPORT_NAME", 0, len(operations)) if place not in skipped]
    for place, following in zip(imports, [*imports, len(operations)][1:], strict=True):
        module = names[argument(place)]
        parts = [names[argument(part)] for part in places("IMPORT_FROM", place, following)]
        for prefix in prefixes:
            if module:
                yield prefix + module
                yield from (f"{prefix}{module}.{part}" for part in parts)
            else:
                yield from (prefix + part for part in parts)
    for inner in code.co_consts:
        if isinstance(inner, type(code)) and not inner.co_flags & _FUNCTION:
            yield from _imported(inner, package)


def _store(place: str, parents: "list[Noted]", machines: "list[Noted]") -> None:
    """Write the bundle, whole or not at all. Failing is no error: the next start tries again."""
    from pyvmm.machine import late

    if not _settled([*parents, *machines]):
        return
    modules = _OnDemand([*parents, *machines])
    modules.add(late.modules(virtio=True))
    extensions = {name for name, entry in modules.entries.items() if entry[3] is None}
    modules.add(ON_DEMAND)
    others = list(modules.entries.values())[len(parents) :]
    others = [entry for entry in others if entry[3] is not None or entry[0] in extensions]
    if _settled(others):
        _write(place, packed(bundle.line(), parents, machines, others, modules.wanting))


def _settled(entries: "list[Noted]") -> bool:
    """Whether the next change of one of the files will change its stamp."""
    return max((ctime for _, _, (_, ctime, _), _ in entries), default=0) <= time_ns() - _CLOCK


def packed(
    line: bytes, parents: "list[Noted]", machines: "list[Noted]", others: "list[Noted]", wanting: str
) -> bytes:
    """The contents of a bundle with *line* 1 whose parts have these modules.

    :param wanting: see ``_OnDemand.wanting``
    """
    index: Index = {}
    pieces: list[bytes] = []
    end = 0

    def piece(value: "Any") -> "Piece":
        nonlocal end
        data = marshal.dumps(value)
        pieces.append(data)
        end += len(data)
        return end - len(data), len(data), source_hash(0, data)

    def part(entries: "list[Noted]") -> "Part":
        codes: list[Piece] = []
        waiting: list[CodeType | None] = []
        size = 0
        for _, _, _, code in entries:
            waiting.append(code)
            size += 0 if code is None else len(marshal.dumps(code))
            if size >= _PIECE:
                codes.append(piece(waiting))
                waiting, size = [], 0
        modules = [(name, file, stamp, code is None) for name, file, stamp, code in entries]
        return modules, [*codes, piece(waiting)]

    parent, machine = part(parents), part(machines)
    for name, file, stamp, code in others:
        index[name] = file, stamp, None if code is None else piece(code)
    makers = [("", file, bundle.stamp(os.stat(file))) for file in (bundle.__file__, __file__)]
    head = marshal.dumps((parent, machine, makers, piece(index), wanting))
    length = len(head).to_bytes(bundle.CHECKSUM, "little")
    return b"".join((line, source_hash(0, head), length, head, *pieces))


def _write(place: str, data: bytes) -> None:
    directory, name = os.path.split(place)
    scratch = f"{directory}/{name.partition('.')[0]}.{os.urandom(8).hex()}.bundle"
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        if not bundle.ours(directory):
            return  # $HOME is another user's, as under sudo -E
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        with open(fd, "wb") as file:
            file.write(data)
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
