"""Debian's stock kernel as a guest of this architecture: booted here, or by ``pyvmm run --exec``."""

from __future__ import annotations

import subprocess
import sys

from pyvmm.config import Config
from pyvmm.images.guest_files import GuestFiles
from pyvmm.machine.ending import Ending
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import Transcript
from tests.support.native import CONSOLE

#: Seconds until a guest is ended. On an emulated host a boot takes 10 to 30, twice that when two hosts work.
LIMIT = 240
QUIET = f"console={CONSOLE} quiet panic=-1"
#: The shell's, of our initramfs.
PROMPT = b"~ # "


def boot(stock: GuestFiles, console: Transcript, *, cmdline: str = QUIET, **keys: object) -> Ending:
    """How *stock* ended, *console* being its serial port."""
    config = Config(
        kernel=stock.kernel, initrd=stock.initrd, cmdline=cmdline, console="none", timeout=LIMIT, **keys
    )
    with Machine(config, console=console) as machine:
        return machine.run()


def execute(*options: str, command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """``pyvmm run --exec`` as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", str(LIMIT), *options, "--exec", command],
        input=stdin,
        capture_output=True,
        timeout=LIMIT + 20,
        check=False,
    )
