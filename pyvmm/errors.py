"""The errors of pyvmm and the exit code each stands for.

``str(error)`` is the whole sentence a user needs: what was wrong, where, what to do.
Every room of the package subclasses one of these.
"""

from __future__ import annotations


class PyvmmError(Exception):
    """A defect of pyvmm itself, or an error with no better class."""

    exit_code = 96


class ConfigError(PyvmmError):
    """What was asked for is wrong: a flag, a board file, two components in one place."""

    exit_code = 65


class StartError(PyvmmError):
    """This host, or a file on it, cannot give what was asked for."""

    exit_code = 64


class GuestError(PyvmmError):
    """The guest did what this VMM or this host cannot carry out."""

    exit_code = 5
