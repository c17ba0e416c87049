"""Guests of these tests have a runtime directory of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runtime import runtime

__all__ = ["runtime"]


@pytest.fixture(autouse=True)
def _own_runtime(runtime: Path) -> None:
    """For every test here."""
