"""What ``--sandbox`` may be, and what is said where a host lacks a step."""

from __future__ import annotations

import pytest

from pyvmm.errors import ConfigError, StartError
from pyvmm.sandbox.mode import MODES, OFF, ON, STRICT, lacking_line, parse_mode

LACKING = ["user namespace: Operation not permitted", "this kernel has no Landlock: Function not implemented"]


def test_each_mode_is_taken_and_nothing_else() -> None:
    assert [parse_mode(mode) for mode in MODES] == [ON, OFF, STRICT]
    for wrong in ("", "ON", "yes", None):
        with pytest.raises(ConfigError, match="choose on, off, strict"):
            parse_mode(wrong)


@pytest.mark.parametrize("mode", MODES)
def test_host_that_lacks_nothing_is_not_worth_a_line(mode: str) -> None:
    assert lacking_line(mode, []) is None


def test_steps_that_are_missing_are_one_line_and_with_strict_no_start() -> None:
    line = lacking_line(ON, LACKING)
    assert line is not None and "\n" not in line
    assert all(step in line for step in LACKING)
    with pytest.raises(StartError) as caught:
        lacking_line(STRICT, LACKING)
    assert all(step in str(caught.value) for step in LACKING)
    assert "--sandbox=on" in str(caught.value)
