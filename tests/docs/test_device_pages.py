"""The code in the pages on devices runs as printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, TESTING, TUTORIAL, files_of


@pytest.mark.parametrize(("page", "passed"), [(TUTORIAL, 3), (TESTING, 6)])
def test_code_of_the_page_passes_its_own_tests(tmp_path: Path, page: str, passed: int) -> None:
    for name, text in files_of(page).items():
        (tmp_path / name).write_text(text)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert f"{passed} passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_device_of_the_tutorial_has_thirty_lines_at_most() -> None:
    assert len(files_of(TUTORIAL)["dice.py"].strip().splitlines()) <= 30


def test_every_python_block_of_the_pages_is_a_file_that_is_run() -> None:
    for page in (TUTORIAL, TESTING):
        text = (ROOT / "docs" / page).read_text()
        assert text.count("```python") == len(files_of(page))
