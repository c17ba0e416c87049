"""``pyvmm replay``: a recording of a device's queue traffic, played to a device and compared.

No guest and no KVM are needed: the fake driver plays it.
"""

from __future__ import annotations

from pyvmm.cli.options import Option, OptionParser
from pyvmm.cli.report_handler import install
from pyvmm.config import DEVICE_KINDS
from pyvmm.errors import ConfigError
from pyvmm.testing.replay import PATIENCE, Replay
from pyvmm.units import parse_seconds
from pyvmm.virtio.options import make_device
from pyvmm.virtio.tools.record import Recording

OPTIONS = OptionParser(
    "pyvmm replay FILE --device CLASS,...",
    "Plays what `pyvmm run --record NAME=FILE` recorded to a device, and compares its answers. The exit\n"
    "code is 0 when they are the same and 1 when they differ.",
    [
        Option("device", "CLASS,...", "the device: FILE.py:Class or package.module:Class, its arguments"),
        Option("patience", "TIME", f"how long an answer may take [{PATIENCE:g}s]"),
    ],
)
DIFFERENT = 1


def main(argv: list[str]) -> int:
    """Run ``pyvmm replay`` with the arguments after the verb; returns the exit code. Raises ConfigError."""
    values, arguments = OPTIONS.parse(argv)
    if len(arguments) != 1 or "device" not in values:
        raise ConfigError("replay takes a recording and a device: pyvmm replay FILE --device CLASS,...")
    patience = parse_seconds(str(values.get("patience", PATIENCE)), "--patience")
    install()
    recording = Recording(arguments[0])
    device = make_device(DEVICE_KINDS["device"].parse(str(values["device"])))
    replay = Replay(recording, device, patience)
    same = replay.run()
    for difference in replay.differences:
        print(difference)
    if replay.count > len(replay.differences):
        print(f"and {replay.count - len(replay.differences)} more")
    if recording.cut:
        print(f"the recording was cut off: its last {recording.cut} bytes are no whole entry")
    if replay.full:
        print("the recording ended when it was full, before the guest did")
    verdict = (
        "no difference" if same else "1 difference" if replay.count == 1 else f"{replay.count} differences"
    )
    print(
        f"{replay.requests} requests, {replay.results} answers, {replay.accesses} accesses to the "
        f"configuration space: {verdict}"
    )
    return 0 if same else DIFFERENT
