"""The emulated host of these tests: the user's own, which stays in the background."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm import lab
from tests.support.require import INSIDE_LAB, unavailable

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120
COMMAND = [sys.executable, "-m", "pyvmm", "lab", "x86_64"]


@pytest.fixture(scope="session")
def lab_host():
    """Skips, or fails where PYVMM_REQUIRE asks for the lab, when there can be none."""
    able, reason = lab.available()
    if not able:
        pytest.skip(reason) if INSIDE_LAB else unavailable("lab", reason)


@pytest.fixture
def call(lab_host):
    """Runs ``pyvmm lab`` with words and gives what it wrote and its status."""

    def run(*words, options=(), **more):
        return subprocess.run(
            [*COMMAND, *options, "--", *words],
            cwd=ROOT,
            capture_output=True,
            timeout=LIMIT,
            check=False,
            **more,
        )

    return run
