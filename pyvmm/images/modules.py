"""Kernel modules: found by name in a package, on a host or in a kernel tree, dependencies in load order.

Which file has a name is taken from ``modules.dep`` where there is one: depmod has chosen between a kernel's
own module and one in ``updates``, and knows folders behind symbolic links. Packages hold none; it is made
when they are installed. A kernel tree lists what was built in ``modules.order``. Dependencies are read from
each module's ``.modinfo`` section (``depends=``, written by the kernel's ``scripts/mod/modpost.c``), which
says the same as ``modules.dep`` and is there everywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
#: Where the modules of a kernel are, below the root of a system or a package: Debian 13's has lib below usr.
_PLACES = ("lib/modules", "usr/lib/modules")
#: Files of which the folder of one kernel's modules has some: by depmod, by the kernel's build.
_LISTS = ("modules.dep", "modules.order", "modules.builtin")
#: A file that every built kernel tree has, and nothing that is installed.
_BUILD_RELEASE = "include/config/kernel.release"
#: A larger module is taken for damage.
_MAX_MODULE = 256 << 20
#: Seconds that strip may take for one.
_PATIENCE = 60.0
#: Bytes that are decompressed at a time.
_PIECE = 4096


class ModuleError(ConfigError):
    """A kernel module does not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module's *name* (with underscores), its *path* below the tree's root, its ELF *data*."""

    name: str
    path: str
    data: bytes


class MissingModuleError(ModuleError):
    """A kernel has no module of a name."""


class ModuleTree:
    """The modules of one kernel release.

    :param root: the root of a system or an unpacked package (``root/lib/modules/RELEASE``), a folder of
        several kernels' modules such as /lib/modules, a folder of one kernel's, or a kernel tree in which
        they were built
    :param release: as ``uname -r`` prints it

    Raises ModuleError when there are none of that release.
    """

    def __init__(self, root: Path, release: str) -> None:
        self.root = root
        self.release = release
        self._builtin: set[str] = set()
        try:
            self._folder = _folder(root, release)
            self._paths = {_plain(os.path.basename(path)): path for path in _files(self._folder)}
            listed = self._folder / "modules.builtin"
            if listed.exists():
                self._builtin = {_plain(os.path.basename(line)) for line in listed.read_text().split()}
        except OSError as error:
            raise ModuleError(
                f"the modules in {root} cannot be read: {error.strerror}: {error.filename}"
            ) from None

    @property
    def names(self) -> list[str]:
        """The names of all loadable modules, sorted."""
        return sorted(self._paths)

    def inputs(self) -> list[str]:
        """The files that decide what ``load_order`` gives, sorted."""
        return sorted([*self._paths.values(), str(self._folder / "modules.builtin")])

    def is_builtin(self, name: str) -> bool:
        """Whether the kernel has *name* built in, so that no module is loaded."""
        return _plain(name) in self._builtin

    def has(self, name: str) -> bool:
        """Whether the kernel has *name*, as a module or built in."""
        return _plain(name) in self._paths or self.is_builtin(name)

    def load_order(self, names: list[str]) -> list[Module]:
        """*names* with all they depend on, each after its dependencies; built-in ones left out.

        ``-`` and ``_`` are the same in a name. Raises MissingModuleError for a name that the kernel does not
        have, ModuleError for a file that cannot be read, is no module or is of another kernel.
        """
        order: dict[str, Module] = {}
        for name in names:
            self._visit(_plain(name), order, (name,))
        return list(order.values())

    def _visit(self, name: str, order: dict[str, Module], trail: tuple[str, ...]) -> None:
        if name in order or name in self._builtin:
            return
        path = self._paths.get(name)
        if path is None:
            needed = f", which {trail[-2]} needs" if len(trail) > 1 else ""
            raise MissingModuleError(
                f"kernel {self.release} has no module {trail[-1]}{needed}; "
                f"look for its name below {self._folder}"
            )
        data = _content(path)
        info, has_debug = _modinfo(data, path)
        kernel = info.get("vermagic", "").partition(" ")[0]
        if kernel not in ("", self.release):
            raise ModuleError(
                f"{path} is a module of kernel {kernel}, and the kernel is {self.release}; give the "
                "modules that were built with it"
            )
        for needed in filter(None, info.get("depends", "").split(",")):
            if needed in trail:
                raise ModuleError(f"the modules {needed} and {name} in {self._folder} need each other")
            self._visit(_plain(needed), order, (*trail, needed))
        order[name] = Module(name, self._place(path), _stripped(data) if has_debug else data)

    def _place(self, path: str) -> str:
        """The path of a module in a guest."""
        inside = os.path.relpath(path, self._folder)
        if inside.startswith("../"):  # modules.dep may name files elsewhere
            inside = f"extra/{os.path.basename(path)}"
        place = f"lib/modules/{self.release}/{inside}"
        return place[: place.rindex(".ko") + 3]


def is_built_tree(folder: Path) -> bool:
    """Whether a kernel was built in *folder*: its source, or the directory of ``make O=``."""
    return (folder / _BUILD_RELEASE).is_file()


def _folder(root: Path, release: str) -> Path:
    """The folder of the release's modules in *root*. Raises ModuleError, OSError."""
    if is_built_tree(root):
        return root
    for place in (*_PLACES, "."):
        folder = root / place / release
        if folder.is_dir():
            return folder
    if not root.is_dir():
        raise ModuleError(f"there is no folder {root}; give one with the modules of kernel {release}")
    if any((root / name).is_file() for name in _LISTS) or any(root.glob("*.ko*")):
        return root
    others = {
        path.parent.name
        for place in (*_PLACES, ".")
        for name in _LISTS
        for path in (root / place).glob(f"*/{name}")
    }
    has = f"; it has those of {', '.join(sorted(others))}" if others else ""
    raise ModuleError(f"there are no modules of kernel {release} below {root}{has}")


def _files(folder: Path) -> Iterable[str]:
    """The module files in *folder*, those last that win over others of their name. Raises OSError."""
    if is_built_tree(folder):
        return _built(folder)
    listed = folder / "modules.dep"
    if listed.is_file():
        lines = listed.read_text().splitlines()
        return [os.path.join(folder, line.partition(":")[0]) for line in lines if ":" in line]
    return _walk(folder)


def _walk(folder: Path) -> Iterator[str]:
    for base, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_SUFFIXES):
                yield os.path.join(base, name)


def _built(tree: Path) -> Iterator[str]:
    """What ``modules.order`` lists: ``kernel/NAME.ko`` before Linux 5.3, then ``NAME.ko``, now ``NAME.o``."""
    listed = tree / "modules.order"
    for line in listed.read_text().split() if listed.is_file() else ():
        name = f"{line.rpartition('.')[0]}.ko"
        for path in (os.path.join(tree, name), os.path.join(tree, name.removeprefix("kernel/"))):
            if os.path.isfile(path):
                yield path
                break


def _plain(name: str) -> str:
    return name.split(".ko")[0].replace("-", "_")


def _content(path: str) -> bytes:
    """The bytes of a module, decompressed. Raises ModuleError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ModuleError(f"the module {path} cannot be read: {error.strerror}") from None
    suffix = os.path.splitext(path)[1]
    if suffix == ".ko":
        return data
    try:
        return _unpack(suffix, data)
    except Exception as error:  # each library raises its own errors
        raise ModuleError(f"the module {path} does not unpack: {error}; the file is damaged") from None


def _unpack(suffix: str, data: bytes) -> bytes:
    """What is in *data*. Raises EOFError, ValueError, the errors of the libraries."""
    unpacker: Any
    if suffix == ".xz":
        import lzma

        unpacker = lzma.LZMADecompressor()
    elif suffix == ".gz":
        import zlib

        unpacker = zlib.decompressobj(31)
    else:
        import zstandard

        unpacker = zstandard.ZstdDecompressor().decompressobj()
    pieces: list[bytes] = []
    size = 0
    for at in range(0, len(data), _PIECE):
        if unpacker.eof:
            break  # what follows, such as padding, is not the module's
        pieces.append(unpacker.decompress(data[at : at + _PIECE]))
        size += len(pieces[-1])
        if size > _MAX_MODULE:
            raise ValueError(f"it would be larger than {_MAX_MODULE >> 20} MiB")
    if not unpacker.eof:
        raise EOFError("it is cut short")
    return b"".join(pieces)


def _stripped(data: bytes) -> bytes:
    """A module without debug information, which in a kernel tree is ten times its code.

    It is unchanged where there is no ``strip``.
    """
    import tempfile

    from pyvmm.host.child import spawn

    with tempfile.TemporaryDirectory(prefix="pyvmm-") as folder:
        whole, small = os.path.join(folder, "whole"), os.path.join(folder, "small")
        with open(whole, "wb") as file:
            file.write(data)
        try:
            child = spawn(["strip", "--strip-debug", "-o", small, whole])
        except FileNotFoundError:
            return data
        child.end(_PATIENCE)
        if child.status:
            return data  # of a format that this strip does not know
        with open(small, "rb") as file:
            return file.read()


def _modinfo(data: bytes, path: str) -> tuple[dict[str, str], bool]:
    """The keys of a module's ``.modinfo`` that have one value; whether it has debug information.

    Raises ModuleError.
    """
    import io

    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(data))
        section = elf.get_section_by_name(".modinfo")
        info = None if section is None else section.data()
        has_debug = elf.get_section_by_name(".debug_info") is not None
    except Exception as error:  # pyelftools raises many kinds for a damaged file
        raise ModuleError(f"{path} is no kernel module: {error}") from None
    if info is None:
        raise ModuleError(f"{path} is no kernel module: it has no .modinfo section")
    lines = (line.decode("ascii", "replace").partition("=") for line in info.split(b"\0"))
    return {key: value for key, _, value in lines}, has_debug
