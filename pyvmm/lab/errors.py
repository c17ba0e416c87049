"""What can go wrong with an emulated host."""

from __future__ import annotations

from pyvmm.errors import StartError


class LabError(StartError):
    """The emulated host cannot be started, or ended under a command."""


class LabLostError(LabError):
    """The emulated host ended, or stopped answering, before the command did."""


class LabTimeoutError(LabError):
    """The command took longer than it was given; it was killed."""

    exit_code = 124  # as of timeout(1)
