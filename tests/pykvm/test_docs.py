"""The program in docs/guide/pykvm.md does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.kvm
def test_example_when_run_prints_what_the_page_shows() -> None:
    page = (ROOT / "docs/guide/pykvm.md").read_text()
    program, shown = re.findall(r"```(?:python)?\n(.*?)```", page, re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=30
    )

    assert (done.stdout, done.stderr) == (shown, "")
