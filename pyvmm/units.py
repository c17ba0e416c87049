"""Sizes and durations as people write them, to numbers and back."""

from __future__ import annotations

from pyvmm.errors import ConfigError

_SIZES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str | int, what: str = "size") -> int:
    """Bytes in *text*: ``256M``, ``4.5G``, ``0x1000``, ``1GiB`` or a plain number of bytes.

    Units are powers of 1024. Raises ConfigError, naming *what*, for anything else, for
    a fraction of a byte and for less than one byte.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        value: float = text
    else:
        word = str(text).strip().upper()
        for tail in ("IB", "B"):
            if word.endswith(tail) and not word.startswith("0X"):
                word = word[: -len(tail)]
                break
        unit = word[-1:] if word[-1:] in ("K", "M", "G", "T") and not word.startswith("0X") else ""
        number = word[: len(word) - len(unit)]
        try:
            value = int(number, 0) if "." not in number else float(number)
        except ValueError:
            raise ConfigError(f"{what}: {text!r} is not a size; write it like 256M or 4.5G") from None
        value *= _SIZES[unit]
    if not 1 <= value < 1 << 63 or value != int(value):
        raise ConfigError(f"{what}: {text!r} is out of range; write it like 256M or 4.5G")
    return int(value)


def format_size(size: int) -> str:
    """*size* bytes in the largest unit that divides it: 268435456 -> ``256M``."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return str(size)


def parse_seconds(text: str | float, what: str = "duration") -> float:
    """Seconds in *text*: ``30``, ``1.5s``, ``200ms``, ``5m``. Raises ConfigError for anything else."""
    word = str(text).strip().lower()
    number = word.rstrip("smh")
    try:
        value = float(number) * _SECONDS[word[len(number) :]]
    except (ValueError, KeyError):
        raise ConfigError(f"{what}: {text!r} is not a duration; write it like 30s or 5m") from None
    if not 0 < value < 1e9:
        raise ConfigError(f"{what}: {text!r} is out of range; it must be above 0 and below 1e9 seconds")
    return value
