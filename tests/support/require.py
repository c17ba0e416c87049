"""What ``PYVMM_REQUIRE`` names must be there: a test that cannot run for want of it fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRED = frozenset(filter(None, os.environ.get("PYVMM_REQUIRE", "").split(",")))
#: Whether this process runs on an emulated host, which has no lab of its own.
INSIDE_LAB = bool(os.environ.get("PYVMM_LAB"))


def unavailable(kind: str, reason: str) -> NoReturn:
    """Skip the test because of *reason*, or fail it where *kind* is required."""
    if kind in REQUIRED:
        pytest.fail(f"{kind} is required here (PYVMM_REQUIRE), but: {reason}", pytrace=False)
    pytest.skip(reason)
