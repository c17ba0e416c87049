"""The benchmarks' parts find each other; what they measure is not for a test suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "scripts" / "bench"
MODULES = sorted(str(path.relative_to(BENCH))[:-3].replace("/", ".") for path in BENCH.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_module_when_imported_finds_what_it_shares(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{BENCH}:{BENCH.parents[1]}"}

    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=BENCH.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
