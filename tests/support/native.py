"""What differs, for tests with a Linux guest, between the architectures they run on."""

from __future__ import annotations

import os
from pathlib import Path

from pyvmm.arch import native
from tests.support.require import INSIDE_LAB

#: Whether this host and its guests are arm64; in the tests that is the emulated one, some ten times slower.
ARM64 = native.NAME == "arm64"
#: What the guest's kernel calls its serial port.
CONSOLE = "ttyAMA0" if ARM64 else "ttyS0"

_TOOLS = Path(__file__).resolve().parents[2] / "firmware" / "guest" / "tools"


def program(name: str) -> Path:
    """A prebuilt program for Linux guests, such as ``disk``."""
    return _TOOLS / f"{name}.{os.uname().machine}"


def volume(amount: int) -> int:
    """*amount*; less on an emulated host, which is slower: a tenth on arm64, a third on x86-64."""
    slower = (10 if ARM64 else 3) if INSIDE_LAB else 1
    return max(1, amount // slower)
