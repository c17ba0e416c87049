"""Errors of guest memory: of the configuration, the host, the guest."""

from __future__ import annotations

from pyvmm.errors import ConfigError, GuestError, StartError


class MemoryConfigError(ConfigError):
    """The memory asked for cannot exist: a size, an alignment or a place that is wrong."""


class HostMemoryError(StartError):
    """This host cannot give the memory asked for."""


class GuestMemoryError(GuestError):
    """An address the guest gave is not (writable) guest memory."""
