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

    def __call__(self, ending: str, prelude: str = "") -> list[str]:
        """The command, with *ending* in place of what runs the verb, and *prelude* before all."""
        return [sys.executable, *self.flags, "-c", prelude + self._code + ending]


launcher = Launcher((ROOT / "scripts" / "pyvmm").read_text())


def made(environment: Mapping[str, str]) -> Path:
    """The bundle in the cache directory of *environment*, after as many starts as it takes."""
    folder = Path(environment["PYVMM_CACHE"])
    limit = time.monotonic() + SETTLED
    while not (found := list(folder.glob("start-*.bundle"))):
        assert time.monotonic() < limit, "no start makes a bundle"
        subprocess.run([*launcher("import os; os._exit(0)\n"), "run"], env=dict(environment), check=True)
    return found[0]


def contents(path: Path) -> list[Any]:
    """The entries of the bundle at *path*, whose checksum is right: name, file, stamp, code."""
    _, _, rest = path.read_bytes().partition(b"\n")
    assert rest[:8] == source_hash(0, rest[8:])
    entries: list[Any] = marshal.loads(rest[8:])
    return entries
