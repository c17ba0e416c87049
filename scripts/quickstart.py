"""Boots Debian's stock kernel with pyvmm: here, or in the lab where this machine has no hardware KVM.

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

from pyvmm.arch import native
from pyvmm.arch.x86_64.host import PVM
from pyvmm.errors import PyvmmError
from pyvmm.images.default import default_guest
from pyvmm.pykvm import Kvm

PROMPT = b"# "
TYPED = ("uname -a", "grep -m1 -e 'model name' -e implementer /proc/cpuinfo", "exit")
CONSOLES = {"x86_64": "ttyS0", "arm64": "ttyAMA0"}
#: What the lab emulates, by architecture.
LABS = {"x86_64": "an emulated AMD-V host", "arm64": "an emulated ARM host"}
LIMIT = 240.0


def main() -> int:
    where, prefix = choose()
    if "--needs-lab" in sys.argv:
        return 0 if prefix else 1
    print(f"== {where}", flush=True)
    try:
        guest = default_guest(say=lambda text: print(f"== {text}", flush=True))
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


def typed(command: list[str]) -> int:
    """Run *command* on a terminal of its own and type TYPED at the guest's prompt."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    deadline = time.monotonic() + LIMIT
    pending, seen = list(TYPED), b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            print(f"\nquickstart: no end within {LIMIT:.0f} s", file=sys.stderr)
            os.kill(pid, 15)
            break
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        seen = (seen + data)[-256:]
        if pending and PROMPT in seen:
            os.write(terminal, pending.pop(0).encode() + b"\r")
            seen = b""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
