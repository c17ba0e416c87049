"""Board files: a machine's keys in TOML, relative paths made absolute."""

from __future__ import annotations

import os
import tomllib

from pyvmm.config.devices import DEVICE_KINDS, DeviceKind, unknown_key
from pyvmm.config.keys import CLASS, ENDPOINT, HOST_KERNEL, KERNEL_PATH, KEYS, NAME_AND_PATH, PATH
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BOARD_FILE = 1 << 20
#: The backends that are written ``KIND:PATH``.
ENDPOINTS = ("append", "file", "link", "pipe", "socket")
#: The keys of an untrusted board file that name files, and all that it may have.
UNTRUSTED_FILES = ("kernel", "initrd", "firmware", "dtb", "dtb_overlay")
UNTRUSTED = (*UNTRUSTED_FILES, "cmdline", "memory", "cpus")


def read_toml(path: str, untrusted: bool = False) -> dict[str, Any]:
    """The keys of board file *path*, with its relative paths taken from its own folder.

    One that is *untrusted* has those of UNTRUSTED only, and names no files but those in its folder and
    below.

    Raises ConfigError for a file that cannot be read, is no TOML or has a key that no machine has. The values
    are checked by ``Config``.
    """
    keys = _load(path)
    folder = os.path.dirname(os.path.abspath(path))
    if untrusted:
        _check_untrusted(path, keys)
    for name, value in keys.items():
        if name in DEVICE_KINDS:
            keys[name] = _each(value, lambda item, kind=DEVICE_KINDS[name]: _device(kind, item, folder))
        elif name == "memory":
            keys[name] = _each(value, lambda part: _part(part, folder))
        elif name in KEYS:
            paths = KEYS[name].paths
            if paths is not None:
                keys[name] = _each(value, lambda item, paths=paths: _absolute(paths, item, folder))
        else:
            raise ConfigError(f"{path}: {unknown_key(name)}")
    if untrusted:
        for name in UNTRUSTED_FILES:
            if name in keys:
                keys[name] = _each(
                    keys[name], lambda file, name=name: _inside(file, folder, f"{path}: {name}")
                )
    return keys


def _check_untrusted(path: str, keys: dict[str, Any]) -> None:
    for name, value in keys.items():
        parts = value if isinstance(value, list) else [value]
        if name not in UNTRUSTED or (name == "memory" and any(_has(part, "path") for part in parts)):
            raise ConfigError(
                f"{path}: {name!r} is not for an untrusted board file, which may have {', '.join(UNTRUSTED)} "
                "and no memory in files; give it on the command line if you want it"
            )


def _inside(value: Any, folder: str, what: str) -> Any:
    """The real path of the file *value*, which must lie in *folder* or below."""
    if not isinstance(value, str):
        return value
    real, top = os.path.realpath(value), os.path.realpath(folder)
    if os.path.commonpath((real, top)) != top or not os.path.isfile(real):
        raise ConfigError(
            f"{what}: {value} is no file in the untrusted board file's own folder; put it there"
        )
    return real


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BOARD_FILE + 1)
        if len(data) > MAX_BOARD_FILE:
            raise ConfigError(f"{path} is larger than {MAX_BOARD_FILE} bytes; give the path of a board file")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a board file") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, a number of 5000 digits
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep; a board file has two levels") from None


def _each(value: Any, function: Any) -> Any:
    """*function* of *value*, or of each item where it is a list."""
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def _part(part: Any, folder: str) -> Any:
    """A part of guest RAM with its file's path absolute."""
    return {**part, "path": _absolute(PATH, part["path"], folder)} if _has(part, "path") else part


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def _device(kind: DeviceKind, value: Any, folder: str) -> Any:
    """A device's options, as a table or a text, with the paths in them absolute."""
    if isinstance(value, dict):
        return {key: _paths(kind.paths.get(key), option, folder) for key, option in value.items()}
    if not isinstance(value, str) or not value:
        return value
    items = []
    for n, item in enumerate(kind.split(value)):
        key, equals, option = item.partition("=")
        start = key + equals
        if n == 0 and kind.first is not None and (not equals or not key.isidentifier()):
            key, option, start = kind.first, item, ""
        if key in kind.paths and (equals or not start):
            item = start + _absolute(kind.paths[key], option, folder)
        items.append(item.replace(",", ",,"))
    return ",".join(items)


def _paths(paths: str | None, value: Any, folder: str) -> Any:
    """``_absolute`` of *value*, or of each of its items; *value* itself where *paths* is None."""
    return value if paths is None else _each(value, lambda item: _absolute(paths, item, folder))


def _absolute(paths: str, value: Any, folder: str) -> Any:
    """*value* with the path in it, in the form *paths*, taken from *folder*."""
    if not isinstance(value, str) or not value:
        return value
    if paths == KERNEL_PATH and value == HOST_KERNEL:
        return value
    if paths in (PATH, KERNEL_PATH):
        return os.path.join(folder, value)
    if paths == CLASS:
        return os.path.join(folder, value) if ".py:" in value else value
    separator = ":" if paths == ENDPOINT else "="
    start, found, path = value.partition(separator)
    if not path or (paths == ENDPOINT and start not in ENDPOINTS):
        return value
    assert paths in (ENDPOINT, NAME_AND_PATH)
    return start + found + os.path.join(folder, path)
