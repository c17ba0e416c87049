"""What a verb that the host fails comes to."""

from __future__ import annotations

import subprocess
import sys

from tests.support.command import LIMIT, ROOT, complains

#: Address space is limited to what is in use and 64 KiB; then a library is loaded that takes more.
PROGRAM = """
import resource, sys
from pyvmm.cli.outcome import code_of
def load():
    import _decimal
    return 0
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (64 << 10)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(code_of(load))
"""


def test_library_for_which_there_is_no_memory_is_a_lack_of_memory() -> None:
    words = [sys.executable, "-c", PROGRAM]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=LIMIT, check=False)

    complains(done, 64, "no more memory", "ulimit -v")
