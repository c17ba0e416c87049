"""Boots a Linux guest with pyvmm: here, or in the lab where this machine has no hardware KVM.

The kernel is Debian's, or the host's own where Debian's packages are not to be had.

On a terminal the guest's shell is yours; `exit` powers it off. Without one, a few commands are
typed at its prompt and it is powered off.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from typing import BinaryIO

from pyvmm.arch import native
from pyvmm.arch.x86_64.host import PVM
from pyvmm.errors import PyvmmError
from pyvmm.images.default_or_host import default_or_host_guest
from pyvmm.pykvm import Kvm

PROMPT = b"# "
TYPED = ("uname -a", "grep -m1 -e 'model name' -e implementer /proc/cpuinfo", "exit")
CONSOLES = {"x86_64": "ttyS0", "arm64": "ttyAMA0"}
#: What the lab emulates, by architecture.
LABS = {"x86_64": "an emulated AMD-V host", "arm64": "an emulated ARM host"}
LIMIT = 240.0
#: Seconds until a line that is not finished is shown in a log.
INTERVAL = 15.0


def main() -> int:
    where, prefix = choose()
    if "--needs-lab" in sys.argv:
        return 0 if prefix else 1
    print(f"== {where}", flush=True)
    try:
        guest = default_or_host_guest(say=lambda text: print(f"== {text}", flush=True))
    except PyvmmError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return error.exit_code
    command = [
        *prefix,
        sys.executable,
        "-m",
        "pyvmm",
        "run",
        "--kernel",
        guest.kernel,
        "--initrd",
        guest.initrd,
    ]
    command += ["--cmdline", f"console={CONSOLES[native.NAME]} quiet panic=-1"]
    print("== $ pyvmm run", flush=True)
    if os.isatty(0) and os.isatty(1) and "--batch" not in sys.argv:
        status = subprocess.run(command, check=False).returncode
    else:
        status = typed(command)
    print(f"== the guest {'powered off cleanly' if status == 0 else f'ended with code {status}'}", flush=True)
    return status


def choose() -> tuple[str, list[str]]:
    """A sentence on where the guest runs, and what goes before the command."""
    lab = [sys.executable, "-m", "pyvmm", "lab", native.NAME, "--"]
    elsewhere = f"booting in the lab, {LABS[native.NAME]}"
    try:
        Kvm().close()
    except PyvmmError as error:
        return f"no usable KVM here ({error}): {elsewhere}", lab
    kind = native.host().virtualization()
    if kind == PVM:
        return f"this machine's KVM (PVM) emulates ring 0: {elsewhere}", lab
    return f"booting on this machine's KVM ({kind})", []


class Output:
    """What came from a terminal, for *stream*: as it came where that *redraws* lines, else whole lines.

    Of a line that was drawn again after a carriage return, a log gets the last state; of one that is not
    finished for a while, its state now and then.
    """

    def __init__(self, stream: BinaryIO, redraws: bool, interval: float = INTERVAL) -> None:
        self._stream = stream
        self._redraws = redraws
        self._interval = interval
        self._line = b""
        self._shown = b""
        self._written = time.monotonic()

    def feed(self, data: bytes) -> None:
        if self._redraws:
            self._write(data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._write(state_of(line) + b"\n")
            self._shown = b""

    def now_and_then(self) -> None:
        state = state_of(self._line)
        if state != self._shown and time.monotonic() >= self._written + self._interval:
            self._shown = state
            self._write(state + b"\n")

    def end(self) -> None:
        if state_of(self._line):
            self._write(state_of(self._line) + b"\n")
        self._line = b""

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()
        self._written = time.monotonic()


def state_of(line: bytes) -> bytes:
    """What a terminal shows of a line that was drawn several times."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def typed(command: list[str]) -> int:
    """Run *command* on a terminal of its own and type TYPED at the guest's prompt."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    deadline = time.monotonic() + LIMIT
    pending, seen = list(TYPED), b""
    output = Output(sys.stdout.buffer, redraws=os.isatty(1))
    while True:
        left = deadline - time.monotonic()
        ready = select.select([terminal], [], [], min(max(left, 0), 1.0))[0]
        output.now_and_then()
        if left <= 0:
            print(f"\nquickstart: no end within {LIMIT:.0f} s", file=sys.stderr)
            os.kill(pid, 15)
            break
        if not ready:
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        output.feed(data)
        seen = (seen + data)[-256:]
        if pending and PROMPT in seen:
            os.write(terminal, pending.pop(0).encode() + b"\r")
            seen = b""
    output.end()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
