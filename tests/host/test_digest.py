"""The SHA-256 of a few bytes, and who does without OpenSSL for it."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from pyvmm.host.digest import digest
from tests.support.command import LIMIT, ROOT


@pytest.mark.parametrize("data", [b"", b"switch", bytes(range(256)) * 300])
def test_digest_is_that_of_hashlib(data: bytes) -> None:
    assert digest(data) == hashlib.sha256(data).digest()


def test_machine_that_unpacks_no_kernel_does_not_load_openssl() -> None:
    program = (
        "import sys; from pyvmm.machine import late; late.load(virtio=True); "
        "import pyvmm.virtio.net.named_switch; "
        "print(sorted({'hashlib', '_hashlib'} & {*sys.modules}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=LIMIT, check=True, text=True
    )

    assert done.stdout == "[]\n"
