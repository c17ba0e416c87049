"""Kernel modules: found by name in an unpacked kernel package, their dependencies in load order.

Dependencies are read from each module's ``.modinfo`` section (``depends=``, written by the
kernel's ``scripts/mod/modpost.c``): packages hold no ``modules.dep``, which is made when they
are installed.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import ConfigError

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class ModuleError(ConfigError):
    """A kernel module does not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module's *name* (with underscores), its *path* below the tree's root, its ELF *data*."""

    name: str
    path: str
    data: bytes


class ModuleTree:
    """The modules of one kernel release below *root* (``root/lib/modules/RELEASE``).

    Raises ModuleError when there are none.
    """

    def __init__(self, root: Path, release: str) -> None:
        self.root = root
        self.release = release
        # Debian 12 has lib/modules, Debian 13 usr/lib/modules.
        found = [
            f for f in (root / "lib/modules" / release, root / "usr/lib/modules" / release) if f.is_dir()
        ]
        if not found:
            raise ModuleError(f"there are no modules of kernel {release} below {root}")
        self._folder = found[0]
        self._paths: dict[str, Path] = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                if name.endswith(_SUFFIXES):
                    self._paths[_plain(name)] = Path(folder, name)
        listed = self._folder / "modules.builtin"
        lines = listed.read_text().split() if listed.exists() else []
        self._builtin = {_plain(os.path.basename(line)) for line in lines}

    @property
    def names(self) -> list[str]:
        """The names of all loadable modules, sorted."""
        return sorted(self._paths)

    def is_builtin(self, name: str) -> bool:
        """Whether the kernel has *name* built in, so that no module is loaded."""
        return _plain(name) in self._builtin

    def load_order(self, names: list[str]) -> list[Module]:
        """*names* with all they depend on, each after its dependencies; built-in ones left out.

        ``-`` and ``_`` are the same in a name. Raises ModuleError for a name that the kernel does not have.
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
            raise ModuleError(
                f"kernel {self.release} has no module {trail[-1]}{needed}; "
                f"look for its name below {self._folder}"
            )
        data = _content(path)
        for needed in _depends(data, path):
            if needed in trail:
                raise ModuleError(f"the modules {needed} and {name} in {self._folder} need each other")
            self._visit(_plain(needed), order, (*trail, needed))
        relative = str(path.relative_to(self.root))
        order[name] = Module(name, relative[: relative.rindex(".ko") + 3], data)


def _plain(name: str) -> str:
    return name.split(".ko")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        return lzma.decompress(data)
    if path.suffix == ".gz":
        import gzip

        return gzip.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def _depends(data: bytes, path: Path) -> list[str]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise ModuleError(f"{path} is no kernel module: {error}") from error
    if section is None:
        raise ModuleError(f"{path} is no kernel module: it has no .modinfo section")
    for line in section.data().split(b"\0"):
        if line.startswith(b"depends="):
            return [name.decode() for name in line[8:].split(b",") if name]
    return []
