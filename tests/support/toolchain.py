"""The compiler that builds the committed guest programs again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.require import unavailable


def compiler(prefix: str, record: Path) -> str:
    """A gcc of the major version that *record* names in its first line.

    That is ``gcc``, else for example ``gcc-12``, each with *prefix* before it. Without one the test is
    skipped, or fails where PYVMM_REQUIRE has ``toolchain``. Distributions' builds of one major version give
    the same bytes for these programs.
    """
    major = record.read_text().splitlines()[0].rpartition(" ")[2].partition(".")[0]
    names = (f"{prefix}gcc", f"{prefix}gcc-{major}")
    found = next((name for name in names if _major(name) == major), None)
    if found is None:
        package = f"gcc-{major}" + (f"-{prefix[:-1]}" if prefix else "")
        unavailable("toolchain", f"no {prefix}gcc of version {major}: apt-get install {package}")
    return found


def _major(name: str) -> str | None:
    """The major version of the compiler called *name*; None when it is not installed."""
    if shutil.which(name) is None:
        return None
    done = subprocess.run([name, "-dumpversion"], check=True, capture_output=True, text=True)
    return done.stdout.strip().partition(".")[0]
