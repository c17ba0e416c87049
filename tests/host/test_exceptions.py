"""Where an exception comes from."""

from __future__ import annotations

import struct
from pathlib import Path

from pyvmm.host import exceptions
from pyvmm.virtio.config_space import ConfigSpace


def raised(function: object, *arguments: object) -> Exception:
    try:
        function(*arguments)  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def write_a_field() -> None:
    ConfigSpace({"a": "u8"}).a = 300


def test_place_is_in_the_callers_code_where_the_library_raised() -> None:
    line = write_a_field.__code__.co_firstlineno + 1

    assert (
        exceptions.raised_at(raised(write_a_field))
        == f"write_a_field, {exceptions.shorten(__file__)} line {line}"
    )


def test_place_is_in_the_library_where_nobody_else_was_there() -> None:
    error = raised(ConfigSpace, {"a": "u9"})
    error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]

    assert exceptions.raised_at(error).startswith("__init__, ")
    assert "config_space.py line " in exceptions.raised_at(error)


def test_place_of_an_exception_that_was_never_raised_is_empty() -> None:
    assert exceptions.raised_at(ValueError("x")) == ""


def test_description_is_one_line() -> None:
    assert exceptions.describe(ValueError("a\n  b")) == "ValueError: a b"
    assert exceptions.describe(struct.error()) == "error"


def test_path_is_as_short_as_it_can_be(tmp_path: Path) -> None:
    assert exceptions.shorten(str(Path.cwd() / "x.py")) == "x.py"
    assert exceptions.shorten("/x.py") == "/x.py"
