"""``pyvmm device``: serve a virtio device to another VMM by vhost-user."""

from __future__ import annotations

import os

from pyvmm.cli.messages import message
from pyvmm.cli.options import Option, OptionParser
from pyvmm.cli.report_handler import install
from pyvmm.cli.switches import warn_of_lonely_cards
from pyvmm.config import DEVICE_KINDS, DeviceOptions
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.loop import Loop
from pyvmm.machine.ending import DEVICE_FAILED
from pyvmm.signals import ENDING, SignalFd, heard
from pyvmm.virtio.options import make_device
from pyvmm.virtio.vhost.server.backend import BackEnd

OPTIONS = OptionParser(
    "pyvmm device FILE.py:Class[,argument=value...] --socket PATH\n"
    "       pyvmm device KIND[=FIRST][,key=value...] --socket PATH",
    "Runs one device in a process of its own and serves it as a vhost-user back end: to `pyvmm run\n"
    "--vhost-user PATH,type=...`, to QEMU, to any front end. Ends with Ctrl-C or SIGTERM.",
    [Option("socket", "PATH", "the socket to listen on")],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm device`` with the arguments after the verb; returns the exit code. Raises ConfigError."""
    values, arguments = OPTIONS.parse(argv)
    path = values.get("socket")
    if len(arguments) != 1 or not isinstance(path, str):
        raise ConfigError("device: give one device and --socket PATH; `pyvmm device --help` shows how")
    options = parse(arguments[0])
    install()
    warn_of_lonely_cards((options,))
    failure: list[Exception] = []
    with Loop() as loop:

        def failed(error: Exception) -> None:
            failure.append(error)
            loop.stop()

        with SignalFd(loop, dict.fromkeys(heard(*ENDING), lambda _: loop.stop())):
            device = make_device(options)
            try:
                back_end = BackEnd(device, loop, path, failed)
            except BaseException:
                device.close()
                raise
            try:
                message(f"{device.name} is served on {path}")
                loop.run()
            finally:
                back_end.close()
    if failure:
        if os.environ.get("PYVMM_DEBUG"):
            raise failure[0]
        what = str(failure[0]) if isinstance(failure[0], PyvmmError) else repr(failure[0])
        message(f"{device.name} failed: {what}")
        return DEVICE_FAILED
    return 0


def parse(text: str) -> DeviceOptions:
    """``rng``, ``disk=PATH,ro``, or a class of the user's. Raises ConfigError."""
    end = min((at for at in map(text.find, ",=") if at >= 0), default=len(text))
    kind = text[:end].replace("-", "_")
    if kind not in DEVICE_KINDS:
        return DEVICE_KINDS["device"].parse(text)
    rest = text[end + 1 :]
    return DEVICE_KINDS[kind].parse(rest) if rest else DeviceOptions(kind, {})
