"""Where parameters are added to a kernel's command line, and what its parameters are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.cmdline import add, encoded, one_line, parameters
from pyvmm.boot.errors import DoesNotFitError, ImageError


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("", "new"),
        ("quiet", "quiet new"),
        ("quiet ", "quiet new"),
        ("console=ttyS0 -- single", "console=ttyS0 new -- single"),
        ("-- single", "new -- single"),
        ("quiet --", "quiet new --"),
        ("quiet\t--\tsingle", "quiet new --\tsingle"),
        ("a -- b -- c", "a new -- b -- c"),
        # Linux takes the quotation marks off before it compares.
        ('a "--" b', 'a new "--" b'),
        ('note="a -- b" c', 'note="a -- b" c new'),
        ('note="a -- b" -- c', 'note="a -- b" new -- c'),
        ("a --b c", "a --b c new"),
        ("a ---", "a --- new"),
        ('a --" b"', 'a --" b" new'),
        # What is behind a quotation that does not end would be in it.
        ('a b="c d', 'a new b="c d'),
        ('a="b c" d="', 'a="b c" new d="'),
    ],
)
def test_add_when_the_line_has_a_grammar_keeps_to_it(cmdline: str, expected: str) -> None:
    assert add(cmdline, ["new"]) == expected


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("", []),
        (" a  b=c\n", ["a", "b=c"]),
        ('a="b c"', ["a=b c"]),
        ('"a=b c" d', ["a=b c", "d"]),
        ("a -- b", ["a"]),
    ],
)
def test_parameters_when_read_are_linuxs(cmdline: str, expected: list[str]) -> None:
    assert parameters(cmdline) == expected


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("console=ttyS0  quiet", "console=ttyS0  quiet"),
        ("console=ttyS0\n", "console=ttyS0"),
        ("\nconsole=ttyS0\r\n  quiet\n\n  -- single\n", "console=ttyS0 quiet -- single"),
        ('a="b c"\n d', 'a="b c" d'),
        ('a="b\n', 'a="b\n'),
        ("a\n\x1f\u2003b", "a \x1f\u2003b"),  # no white space for the kernel
        ('\ndyndbg="file a.c +p\nfile b.c +p"\n', 'dyndbg="file a.c +p\nfile b.c +p"'),
    ],
)
def test_one_line_when_a_board_file_has_several_joins_them(cmdline: str, expected: str) -> None:
    assert one_line(cmdline) == expected


@given(st.text(alphabet='ab="- \t\n\r'))
def test_add_when_the_line_is_anything_adds_a_parameter_and_loses_none(cmdline: str) -> None:
    before = parameters(cmdline)

    after = parameters(add(cmdline, ["new=1"]))

    after.remove("new=1")
    assert after == before


@given(st.text(alphabet='ab="- \t\n\r'))
def test_one_line_when_the_line_is_anything_keeps_its_parameters(cmdline: str) -> None:
    assert parameters(one_line(cmdline)) == parameters(cmdline)


def test_encoded_when_too_long_says_that_what_is_added_counts() -> None:
    assert encoded("\udcff", 1) == b"\xff"
    with pytest.raises(
        DoesNotFitError, match=r"has 6 bytes, but at most 5 are possible; shorten it.*virtio dev"
    ):
        encoded("öööa"[:3], 5)
    with pytest.raises(ImageError, match="contains a zero byte"):
        encoded("a\0", 5)
