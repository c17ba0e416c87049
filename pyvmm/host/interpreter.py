"""A function of pyvmm's in a process of its own: its interpreter reads no environment and no ``site``."""

from __future__ import annotations

import json
import os
import sys


def command(module: str, task: object) -> list[str]:
    """The command that calls ``main`` of *module* with *task*, a JSON text, on this process's module path."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [home, *map(os.path.abspath, sys.path)]
    start = f"import sys; sys.path[:] = {path!r}; from {module} import main; main(sys.argv[1])"
    return [sys.executable, "-I", "-S", "-c", start, json.dumps(task)]
