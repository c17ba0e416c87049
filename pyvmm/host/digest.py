"""SHA-256 of a few bytes, of Python's own: ``hashlib`` loads OpenSSL, which takes 3 ms.

Where there is no memory for that, ``hashlib`` also writes tracebacks of its own to standard error.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _of_hashlib() -> Any:
    from hashlib import sha256

    return sha256


try:
    from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]
except ModuleNotFoundError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore] # before Python 3.12
    except ModuleNotFoundError:  # a Python that was built without them
        sha256 = _of_hashlib()


def digest(data: bytes) -> bytes:
    """The 32 bytes of the SHA-256 of *data*."""
    result: bytes = sha256(data).digest()
    return result
