"""The table of what works where: it names tests that are there, and says what their results say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOG = """
== python -m pyvmm lab x86_64 --timeout 6m -- python -m pytest -rap tests/integration
PASSED tests/integration/test_a.py::test_one
PASSED tests/integration/test_a.py::test_two[3-x y]
== 12 s, exit code 0
== python -m pyvmm lab arm64 --timeout 6m -- python -m pytest -rap tests/integration
PASSED tests/integration/test_a.py::test_one
FAILED tests/integration/test_a.py::test_two[3] - assert False
SKIPPED [1] tests/integration/test_b.py:7: no such thing
== python -m pyvmm lab arm64-gicv2 --timeout 6m -- python -m pytest -rap tests/integration
FAILED tests/integration/test_a.py::test_one - assert False
PASSED tests/integration/test_c.py::test_three
"""


@pytest.fixture(scope="module")
def support() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support", ROOT / "scripts" / "support.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_features_name_tests_that_exist(support: ModuleType) -> None:
    missing = []
    for name in (name for tests in support.FEATURES.values() for name in tests):
        path, _, rest = name.partition("::")
        source = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
        words = filter(None, rest.split("::"))
        if not source or not all(re.search(rf"(def|class) {word}", source) for word in words):
            missing.append(name)

    assert missing == []


def test_committed_table_has_the_features_and_their_files(support: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / "support.md").read_text()
    shown = page.partition(support.BEGIN)[2].partition(support.END)[0]

    nothing_ran = support.table({name: {} for name in support.ARCHITECTURES})
    assert re.sub(r"\| (tested|-) (?=\|)", "| - ", shown.strip()) == nothing_ran.strip()


def test_results_are_told_apart_by_the_host_they_came_from(support: ModuleType) -> None:
    found = support.results(LOG.splitlines())

    assert found == {
        "x86-64": {
            "tests/integration/test_a.py::test_one": "PASSED",
            "tests/integration/test_a.py::test_two[3-x": "PASSED",
        },
        "arm64": {
            "tests/integration/test_a.py::test_one": "FAILED",
            "tests/integration/test_a.py::test_two[3]": "FAILED",
            "tests/integration/test_c.py::test_three": "PASSED",
        },
    }


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (("tests/integration/test_a.py",), "fails"),
        (("tests/integration/test_c.py::test_three",), "tested"),
        (("tests/integration/test_b.py",), "-"),
    ],
)
def test_cell_says_tested_only_when_all_that_ran_passed(
    support: ModuleType, tests: tuple[str, ...], said: str
) -> None:
    assert support.cell(tests, support.results(LOG.splitlines())["arm64"]) == said
