from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyvmm.pykvm import Kvm
from tests.support.real_mode import RealMode


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm() as made:
        yield made


@pytest.fixture
def guest(kvm: Kvm) -> Iterator[Callable[..., RealMode]]:
    """Makes guests of machine code; closes them."""
    made = []

    def make(code: bytes, **how: Any) -> RealMode:
        made.append(RealMode(kvm, code, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()
