"""The launcher's own Python, and bundles that it makes."""

from __future__ import annotations

import marshal
import re
import subprocess
import sys
import time
from _imp import source_hash
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyvmm.bundle_writer import ON_DEMAND, packed
from pyvmm.machine.late import modules

ROOT = Path(__file__).resolve().parents[2]
#: Seconds within which a start makes a bundle: once no file is newer than two seconds.
SETTLED = 30.0


class Launcher:
    """The Python in scripts/pyvmm, with this interpreter."""

    def __init__(self, script: str) -> None:
        flags, code = re.findall(r"exec \"\$python\" (.*?) -c '\n(.*?)' \"\$@\"", script, re.DOTALL)[0]
        assert code.endswith("\nentry()\n")
        #: The interpreter's options.
        self.flags: list[str] = flags.split()
        self._code = code.removesuffix("from pyvmm.cli.main import entry\nentry()\n")

    def __call__(self, ending: str, prelude: str = "", python: str = sys.executable) -> list[str]:
        """The command, with *ending* in place of what runs the verb, and *prelude* before all."""
        return [python, *self.flags, "-c", prelude + self._code + ending]


launcher = Launcher((ROOT / "scripts" / "pyvmm").read_text())


def made(environment: Mapping[str, str], python: str = sys.executable) -> Path:
    """The bundle in the cache directory of *environment*, after as many starts as it takes."""
    folder = Path(environment["PYVMM_CACHE"])
    limit = time.monotonic() + SETTLED
    command = [*launcher("import os; os._exit(0)\n", python=python), "run"]
    while not (found := list(folder.glob("start-*.bundle"))):
        assert time.monotonic() < limit, "no start makes a bundle"
        subprocess.run(command, env=dict(environment), check=True)
    return found[0]


def complete(environment: Mapping[str, str], python: str = sys.executable) -> Path:
    """The bundle in the cache directory of *environment*, with all that is imported on demand."""
    limit = time.monotonic() + SETTLED
    names = *modules(virtio=True), *ON_DEMAND
    command = [*launcher(f"for name in {names}: __import__(name)\n", python=python), "run"]
    while Contents(path := made(environment, python)).wanting:
        assert time.monotonic() < limit, "no start makes a complete bundle"
        subprocess.run(command, env=dict(environment), check=True)
    return path


class Contents:
    """What the bundle at *path* has, whose checksums are right. A module is (name, file, stamp, code)."""

    def __init__(self, path: Path) -> None:
        self.line, _, rest = path.read_bytes().partition(b"\n")
        length = int.from_bytes(rest[8:16], "little")
        head = rest[16 : 16 + length]
        assert rest[:8] == source_hash(0, head)
        self._pieces = rest[16 + length :]
        parents, machines, _, index, self.wanting = marshal.loads(head)
        #: Where the first piece of each part is, the index, and the code of each module on demand: (offset,
        #: length, checksum).
        self.pieces: dict[str, Any] = {"parent": parents[1][0], "machine": machines[1][0], "index": index}
        #: Where the head begins, and where it ends.
        self.head = len(self.line) + 17, len(self.line) + 17 + length
        self.parents, self.machines = self._part(*parents), self._part(*machines)
        self.on_demand = []
        for name, (file, stamp, where) in self._piece(self.pieces["index"]).items():
            self.pieces[name] = where
            self.on_demand.append((name, file, stamp, None if where is None else self._piece(where)))

    def _part(self, modules: list[Any], pieces: list[Any]) -> list[Any]:
        codes = [code for piece in pieces for code in self._piece(piece)]
        assert [code is None for code in codes] == [module[3] for module in modules]
        return [(*module[:3], code) for module, code in zip(modules, codes, strict=True)]

    def _piece(self, where: tuple[int, int, bytes]) -> Any:
        offset, length, checksum = where
        data = self._pieces[offset : offset + length]
        assert source_hash(0, data) == checksum
        return marshal.loads(data)

    def forged(self, module: str, source: str) -> bytes:
        """The same, valid in all but that *module* has the code of *source*."""
        parts = [
            [
                (name, file, stamp, compile(source, file, "exec") if name == module else code)
                for name, file, stamp, code in part
            ]
            for part in (self.parents, self.machines, self.on_demand)
        ]
        return packed(self.line + b"\n", parts[0], parts[1], parts[2], self.wanting)
