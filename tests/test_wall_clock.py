"""What the host's date is for: when it is set back, no timer or time limit goes wrong."""

from __future__ import annotations

import ast
from pathlib import Path

import pyvmm

PACKAGE = Path(pyvmm.__file__).parent
#: The modules that ask for it, and why.
ALLOWED = {
    "backends/net/pcap.py": "a capture has the date of each frame",
    "boot/payload.py": "unpacked kernels that were not used for long are removed",
    "bundle_writer.py": "files that were changed this moment are not bundled",
    "devices/pl031.py": "it shows the date to the guest",
    "devices/rtc.py": "it shows the date to the guest",
}
DATE = {"time", "time_ns", "CLOCK_REALTIME"}


def asks_for_the_date(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr=name) if name in DATE:
                return True
            case ast.ImportFrom(module="time", names=names) if DATE & {one.name for one in names}:
                return True
    return False


def test_only_what_shows_or_keeps_the_date_asks_the_host_for_it() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if asks_for_the_date(path)}

    assert found == ALLOWED.keys(), "everything else measures time by a clock that nobody can set"
