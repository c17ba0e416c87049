"""``pyvmm device``: serve a virtio device to another VMM by vhost-user."""

from __future__ import annotations

import os

from pyvmm.cli.messages import keep_standard_error, message
from pyvmm.cli.options import Option, OptionParser
from pyvmm.cli.report_handler import install
from pyvmm.cli.switches import warn_of_lonely_cards
from pyvmm.config import DEVICE_KINDS, DeviceOptions
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.host import exceptions
from pyvmm.loop import Loop
from pyvmm.machine.ending import DEVICE_FAILED
from pyvmm.sandbox import mode as sandbox_mode
from pyvmm.signals import ENDING, SignalFd, heard
from pyvmm.virtio.options import make_device
from pyvmm.virtio.vhost.server.backend import BackEnd
from pyvmm.virtio.vhost.server.sandbox import DeviceSandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.listener import Listener

OPTIONS = OptionParser(
    "pyvmm device FILE.py:Class[,argument=value...] --socket PATH\n"
    "       pyvmm device KIND[=FIRST][,key=value...] --socket PATH",
    "Runs one device in a process of its own and serves it as a vhost-user back end: to `pyvmm run\n"
    "--vhost-user PATH,type=...`, to QEMU, to any front end. Ends with Ctrl-C or SIGTERM.",
    [
        Option("socket", "PATH", "the socket to listen on"),
        Option("sandbox", sandbox_mode.METAVAR, f"{sandbox_mode.HELP} [on]"),
    ],
)


def main(argv: list[str]) -> int:
    """Run ``pyvmm device`` with the arguments after the verb; returns the exit code. Raises ConfigError."""
    values, arguments = OPTIONS.parse(argv)
    path = values.get("socket")
    if len(arguments) != 1 or not isinstance(path, str):
        raise ConfigError("device: give one device and --socket PATH; `pyvmm device --help` shows how")
    mode = sandbox_mode.parse_mode(values.get("sandbox", sandbox_mode.ON))
    options = parse(arguments[0])
    install()
    warn_of_lonely_cards((options,))
    debug = bool(os.environ.get("PYVMM_DEBUG"))
    failure: list[Exception] = []
    with Loop() as loop:

        def failed(error: Exception) -> None:
            failure.append(error)
            loop.stop()

        with SignalFd(loop, dict.fromkeys(heard(*ENDING), lambda _: loop.stop())):
            device = make_device(options)
            try:
                sandbox = None if mode == sandbox_mode.OFF else DeviceSandbox(device, "give --sandbox=off")

                def listening(listener: Listener) -> None:
                    if sandbox is not None:
                        keep_standard_error()
                        listener.remove_from_outside()
                        sandbox.enter()

                back_end = BackEnd(device, loop, path, failed, listening)
            except BaseException:
                device.close()
                raise
            try:
                line = None
                if sandbox is not None:
                    sandbox.seal()
                    line = sandbox_mode.lacking_line(mode, sandbox.lacking)
                message(f"{device.name} is served on {path}")
                if line is not None:
                    message(line)
                loop.run()
            finally:
                back_end.close()
    if failure:
        if debug:
            raise failure[0]
        message(f"{device.name} failed {_reason(failure[0])}")
        return DEVICE_FAILED
    return 0


def _reason(error: Exception) -> str:
    if isinstance(error, PyvmmError):
        return f"in pyvmm: {error}"
    return f"in {exceptions.raised_at(error)}: {exceptions.describe(error)}{exceptions.advice(error)}"


def parse(text: str) -> DeviceOptions:
    """``rng``, ``disk=PATH,ro``, or a class of the user's. Raises ConfigError."""
    end = min((at for at in map(text.find, ",=") if at >= 0), default=len(text))
    kind = text[:end].replace("-", "_")
    if kind not in DEVICE_KINDS:
        return DEVICE_KINDS["device"].parse(text)
    rest = text[end + 1 :]
    return DEVICE_KINDS[kind].parse(rest) if rest else DeviceOptions(kind, {})
