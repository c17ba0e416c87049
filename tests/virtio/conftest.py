"""Every test may say what it has to say: the limit on notices is per process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm import notice


@pytest.fixture(autouse=True)
def fresh_notices() -> Iterator[None]:
    notice._sites.clear()
    yield
    notice._sites.clear()
