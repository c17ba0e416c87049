"""Finds the verb and runs it."""

from __future__ import annotations

import _signal  # without the enums of ``signal``
import gc
import os
import sys

from pyvmm import host
from pyvmm.cli.interrupt import Interruptible
from pyvmm.cli.messages import message
from pyvmm.cli.outcome import code_of, leave

VERBS = {
    "run": "boot a guest",
    "ps": "list the running guests",
    "exec": "run a command in a running guest",
    "console": "attach to the console of a running guest",
    "stop": "end a running guest",
    "doctor": "what this host can do, and what to do about what it cannot",
    "device": "serve a virtio device to another VMM, by vhost-user",
    "image": "fetch and build guest images",
    "lab": "run a command on an emulated KVM host",
    "new-device": "begin a virtio device of your own, with its tests",
    "replay": "play recorded queue traffic to a virtio device and compare",
}
#: Objects made until garbage is looked for: while modules are loaded nothing is, and a search costs 0.5 ms.
_GC_THRESHOLD = 10_000
USAGE = 65


def usage() -> str:
    """The text of ``pyvmm --help``."""
    lines = ["usage: pyvmm VERB ...", "", "A KVM virtual machine monitor in Python.", ""]
    lines += [f"  {verb:11} {what}" for verb, what in VERBS.items()]
    lines += ["", "`pyvmm VERB --help` tells more; `pyvmm --version` prints the version."]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the command line *argv* (without the program's name); returns the exit code."""
    host.before_first_report = _handle_reports
    return code_of(lambda: _dispatch(argv))


def module_of(verb: str) -> str:
    """The name of the module that is *verb*."""
    return f"pyvmm.cli.{'exec_in' if verb == 'exec' else verb.replace('-', '_')}"


def entry() -> None:
    """The process's way in and out."""
    _open_standard_files()
    gc.set_threshold(_GC_THRESHOLD)
    # Ctrl-C ends the process on the spot until a verb has something to tidy: a KeyboardInterrupt
    # while modules are loaded can get lost in the import machinery's own callbacks.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.argv[1:2] in (["run"], ["exec"]):
        from pyvmm import signals

        signals.end_follows = True
    leave(main(sys.argv[1:]))


def _open_standard_files() -> None:
    """Descriptors 0 to 2 that are closed become /dev/null: else the next file opened would be one of them."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))


def _dispatch(argv: list[str]) -> int:
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else USAGE
    if verb in ("-V", "--version"):
        from pyvmm import __version__

        print(f"pyvmm {__version__}")
        return 0
    if verb not in VERBS:
        message(f"{verb!r} is not a verb; `pyvmm --help` lists them")
        return USAGE
    if verb == "run":  # the one whose start-up counts: importlib itself costs a millisecond
        from pyvmm.cli import run

        return run.main(argv[1:])
    from importlib import import_module

    module = import_module(module_of(verb))
    with Interruptible():
        status: int = module.main(argv[1:])
    return status


def _handle_reports() -> None:
    from pyvmm.cli.report_handler import install

    install()
