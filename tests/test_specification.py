"""The promises point at tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_that_the_specification_names_exists() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "SPECIFICATION.md").read_text())

    assert len(named) > 50
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_promise_names_a_test_a_benchmark_or_says_pending() -> None:
    rows = [line for line in (ROOT / "SPECIFICATION.md").read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| ---", "| promise", "| figure"))]

    assert [row for row in promises if not re.search(r"`tests/|`scripts/bench|\*pending\*", row)] == []
