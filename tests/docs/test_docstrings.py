"""Public docstrings say what is raised and what each number means; ``scripts/docstrings.py`` checks it."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.support.repository import script


@pytest.fixture(scope="module")
def docstrings() -> ModuleType:
    return script("docstrings")


def test_package_misses_nothing(docstrings: ModuleType) -> None:
    assert docstrings.HELD == "pyvmm"
    assert [str(finding) for finding in docstrings.check(docstrings.HELD)] == []


def test_glossary_gives_parameter_names_a_meaning(docstrings: ModuleType) -> None:
    assert {"gpa", "size", "length", "fd"} <= docstrings.meanings()


def test_path_where_nothing_is_fails(docstrings: ModuleType) -> None:
    with pytest.raises(FileNotFoundError):
        docstrings.check("pyvmm/nowhere")


RAISES_OOPS = ["raises Oops, which its docstring does not name"]
CALLS_HELPER = "def _g():\n    raise Oops\ndef f():\n    'Doc.'\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(): pass", ["has no docstring"]),
        ("class C:\n    'Doc.'\n    def m(self): pass", ["has no docstring"]),
        ("def f(n: int):\n    'Doc.'", ["n: the docstring says no unit or range"]),
        ("def f(n: int | None = None):\n    'Takes *n* bytes.'", []),
        ("def f(size: int):\n    'Doc.'", []),
        ("def f():\n    'Doc.'\n    raise Oops", RAISES_OOPS),
        ("def f():\n    'Raises Oops.'\n    raise module.Oops('x') from None", []),
        (CALLS_HELPER + "    with x:\n        _g()", RAISES_OOPS),
        (CALLS_HELPER + "    try:\n        _g()\n    except Oops:\n        pass", []),
        (
            CALLS_HELPER + "    try:\n        _g()\n    except Oops:\n        raise Other",
            ["raises Other, which its docstring does not name"],
        ),
        (
            "def f():\n    'Doc.'\n    try:\n        raise Oops\n    except Exception as e:\n        raise e",
            [],
        ),
        (
            "class C:\n 'Doc.'\n def m(self):\n  'Doc.'\n  raise self._e()\n def _e(self) -> Oops: ...",
            RAISES_OOPS,
        ),
        ("class C:\n    'Raises Oops.'\n    def __init__(self):\n        raise Oops", []),
        ("class C:\n    'All methods raise Oops.'\n    def m(self):\n        'Doc.'\n        raise Oops", []),
        ("class C:\n    'Raises Oops.'\n    def m(self):\n        'Doc.'\n        raise Oops", RAISES_OOPS),
        ("class C:\n 'All methods that wait raise Oops.'\n def m(self):\n  'Doc.'\n  raise Oops", []),
        ("def f():\n    'Doc.'\n    try:\n        raise KvmError\n    except PyvmmError:\n        pass", []),
        (
            "class C:\n def m(self):\n  'Raises Oops.'\n def n(self):\n  '``m``, awaited.'\n  raise Oops",
            ["has no docstring"],
        ),
        ("class C:\n 'Doc.'\n def m(self):\n  'Doc.'\n  failed = g()\n  raise failed", []),
        ("class C:\n 'Doc.'\n @overload\n def m(self): ...\n def m(self):\n  'Doc.'", []),
        ("def f():\n    'Doc.'\n    def inner():\n        raise Oops", []),
        ("def _f(n: int): raise Oops", []),
    ],
)
def test_checker_finds_what_is_missing(docstrings: ModuleType, source: str, found: list[str]) -> None:
    assert [finding.what for finding in docstrings.check_source(source, "m.py", {"size"})] == found
