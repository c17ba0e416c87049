"""The option parser's own rules; what each verb's options mean is tested with the verb."""

from __future__ import annotations

import pytest

from pyvmm.cli.options import Option, OptionParser

OPTIONS = OptionParser(
    "usage",
    "about",
    [
        Option("plain", "", "nothing"),
        Option("need", "X", "something"),
        Option("maybe", "[X]", "something or nothing"),
    ],
)


@pytest.mark.parametrize(
    ("argv", "values", "words"),
    [
        (["--maybe"], {"maybe": True}, []),
        (["--maybe", "--plain"], {"maybe": True, "plain": True}, []),
        (["--maybe", "--", "word"], {"maybe": True}, ["word"]),
        (["--maybe", "a=b"], {"maybe": "a=b"}, []),
        (["--maybe=a=b", "word"], {"maybe": "a=b"}, ["word"]),
        (["word", "--maybe", "x", "--need", "-y"], {"maybe": "x", "need": "-y"}, ["word"]),
    ],
)
def test_value_when_it_may_be_left_out_is_taken_where_there_is_one(
    argv: list[str], values: dict[str, object], words: list[str]
) -> None:
    assert OPTIONS.parse(argv) == (values, words)
