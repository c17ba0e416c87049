"""The value of ``--cpu``: host, with features masked (-name) or required (+name)."""

from __future__ import annotations

from pyvmm.errors import ConfigError


class CpuModel:
    """The parsed value; a subclass knows an architecture's features. Raises ConfigError."""

    __slots__ = ("masked", "required")

    #: A valid value, for error messages.
    example = "host"
    #: What names there are, for error messages.
    names = ""

    def __init__(self, text: str) -> None:
        base, *changes = text.split(",")
        if base != "host":
            raise ConfigError(f"cpu: {base!r} is not offered; start with host, as in {self.example}")
        self.masked: set[str] = set()
        self.required: set[str] = set()
        for change in changes:
            sign, name = change[:1], change[1:].lower()
            if sign not in ("-", "+") or not self.known(name):
                raise ConfigError(f"cpu: {change!r} is not -feature or +feature {self.names}")
            (self.masked if sign == "-" else self.required).add(name)
        both = self.masked & self.required
        if both:
            raise ConfigError(f"cpu: {', '.join(sorted(both))} is both masked and required; decide for one")

    def known(self, name: str) -> bool:
        """Whether *name* is a feature's."""
        raise NotImplementedError
