"""Devices of the user's own: ``--device ./mydev.py:MyDevice,arg=value``.

The class comes from a file, from a module that Python finds, or from an installed package that
names it in the entry point group ``pyvmm.devices``. The other keys are its constructor's arguments,
converted by their annotations. Whatever is wrong with the user's code is one sentence with file and
line; with PYVMM_DEBUG set it is the traceback.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import typing
from importlib import import_module, metadata

from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.host import exceptions
from pyvmm.virtio.config_space import ConfigSpace
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.features import COMMON
from pyvmm.virtio.ring.queue import MAX_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

#: The entry point group of installed devices.
GROUP = "pyvmm.devices"

#: Feature bits that belong to the transport and the queue (6): from 24 to 49.
_RESERVED_FEATURES = range(24, 50)
_HIGHEST_ID = 0xFFFF_FFFF
_TRUE = ("on", "yes", "true", "1")
_FALSE = ("off", "no", "false", "0")


# Finding the class


def load_class(text: str) -> type[VirtioDevice]:
    """The class named by FILE.py:Class, package.module:Class or an entry point's name.

    Raises ConfigError; with PYVMM_DEBUG set, the Exception that the module raised.
    """
    where, colon, name = text.rpartition(":")
    if not colon:
        kind = _installed(text)
    else:
        is_file = where.endswith(".py") or os.sep in where
        module = _from_file(where) if is_file else _from_module(where)
        kind = getattr(module, name, None)
        if kind is None:
            classes = ", ".join(_device_classes(module)) or "none"
            raise ConfigError(f"device {text}: {where} has no {name}; device classes in it: {classes}")
    check_class(text, kind)
    checked: type[VirtioDevice] = kind
    return checked


def _from_file(path: str) -> ModuleType:
    full = os.path.abspath(path)
    name = os.path.basename(full).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None or not os.path.isfile(full):
        raise ConfigError(f"device {path}: there is no such Python file; give FILE.py:Class")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look their module up by its name. Its neighbours can be imported.
    sys.modules.setdefault(name, module)
    sys.path.insert(0, os.path.dirname(full))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _defect(f"device {path}", error) from error
    finally:
        sys.path.remove(os.path.dirname(full))
    return module


def _from_module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _defect(f"device {name}", error) from error
        raise ConfigError(
            f"device {name}: Python finds no module {error.name}; install it, or give a file, ./FILE.py:Class"
        ) from None
    except Exception as error:
        raise _defect(f"device {name}", error) from error


def _installed(name: str) -> Any:
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise ConfigError(
            f"device {name!r} is neither FILE.py:Class nor package.module:Class nor an installed device; "
            f"installed are: {known}"
        )
    try:
        return points[name].load()
    except Exception as error:
        raise _defect(f"device {name}", error) from error


def _device_classes(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, VirtioDevice) and value.__module__ == module.__name__
    ]


# Whether it is one


def check_class(text: str, kind: Any) -> None:
    """Raise ConfigError with what is wrong with *kind* as a device class, before anything is made of it."""
    if not isinstance(kind, type) or not issubclass(kind, VirtioDevice):
        raise ConfigError(
            f"device {text} is no device class; derive it from pyvmm.virtio.device.VirtioDevice"
        )
    wrong = _wrong(kind)
    if wrong:
        raise ConfigError(f"device {text}: {wrong}")


def _wrong(kind: type[VirtioDevice] | VirtioDevice) -> str | None:
    """What is wrong with the declarations of a class, or of one of its objects."""
    identifier = kind.device_id
    if not isinstance(identifier, int) or not 0 < identifier <= _HIGHEST_ID:
        return (
            f"device_id is {identifier!r}; give the class a number from 1 on, section 5 of virtio lists them"
        )
    if not isinstance(kind.name, str) or not kind.name.replace("-", "_").isidentifier():
        return f"name is {kind.name!r}; give it letters, digits, - and _ only"
    if not isinstance(kind.features, int) or kind.features < 0:
        return f"features is {kind.features!r}; make it a mask such as 1 << 0"
    reserved = [bit for bit in _RESERVED_FEATURES if kind.features >> bit & 1 and not COMMON >> bit & 1]
    if reserved or kind.features >> 64:
        bit = reserved[0] if reserved else kind.features.bit_length() - 1
        return f"feature bit {bit} is not a device's own; those are 0 to 23 and 50 to 63 (virtio 2.2)"
    try:
        sizes = list(kind.queue_sizes)
    except TypeError:
        return f"queue_sizes is {kind.queue_sizes!r}; make it a tuple of sizes such as (64,)"
    for index, size in enumerate(sizes):
        if not isinstance(size, int) or not 0 < size <= MAX_SIZE or size & (size - 1):
            return f"queue {index} has size {size!r}; make it a power of two up to {MAX_SIZE}"
    methods = kind if isinstance(kind, type) else type(kind)
    no_handler = methods.handle is VirtioDevice.handle and methods.process is VirtioDevice.process
    if sizes and no_handler and not kind.external:
        return "it has queues and no method handle(self, queue, chain)"
    try:
        fields, writable = dict(kind.config_fields), frozenset(kind.config_writable)
    except (TypeError, ValueError):
        return "config_fields is a mapping of names to types, config_writable a set of names"
    missing = sorted(writable - set(fields))
    if missing:
        return f"config_writable names {missing[0]!r}, which config_fields has not"
    try:
        ConfigSpace(fields, writable)
    except (ValueError, AttributeError) as error:
        return f"config_fields: {error}"
    return None


# Making one


def make(kind: type[VirtioDevice], given: dict[str, str | bool]) -> VirtioDevice:
    """``kind(**given)``, the texts converted by the constructor's annotations.

    Raises ConfigError, and a PyvmmError of the constructor's as it is; with PYVMM_DEBUG set, any Exception
    that the constructor raised.
    """
    what = f"device {kind.__name__}"
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    any_name = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(kind).parameters.values())
    known = f"it knows {', '.join(parameters)}" if parameters else "its constructor takes no arguments"
    types = _annotations(kind)
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        if key not in parameters and not any_name:
            raise ConfigError(f"{what}: {key!r} is unknown; {known}")
        arguments[key] = _convert(what, key, value, types.get(key, str))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(f"{what}: {name}=... is missing; {known}")
    try:
        device = kind(**arguments)
    except PyvmmError:
        raise
    except Exception as error:
        raise _defect(what, error) from error
    if not hasattr(device, "runtime"):
        raise ConfigError(f"{what}: its __init__ does not call super().__init__(); let it do so first")
    wrong = _wrong(device)
    if wrong:
        device.close()
        raise ConfigError(f"{what}: {wrong}")
    return device


def _annotations(kind: type[VirtioDevice]) -> dict[str, Any]:
    """The types of the constructor's arguments, without ``None``."""
    try:
        hints = typing.get_type_hints(kind.__init__)
    except Exception:  # a name that only type checkers know: the plain words are enough for ours
        raw = getattr(kind.__init__, "__annotations__", {})
        hints = {name: _WORDS.get(str(text).split("|")[0].strip(), str) for name, text in raw.items()}
    found: dict[str, Any] = {}
    for name, hint in hints.items():
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        found[name] = choices[0] if len(choices) == 1 and type(None) in typing.get_args(hint) else hint
    return found


def _convert(what: str, key: str, value: str | bool, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        if value in _TRUE + _FALSE:
            return value in _TRUE
        raise ConfigError(f"{what}: {key}={value} is neither on nor off")
    if value is True:
        raise ConfigError(f"{what}: {key} needs a value: {key}=...")
    text = str(value)
    try:
        if kind is int:
            return int(text, 0)
        if kind is float:
            return float(text)
        if kind is bytes:
            return os.fsencode(text)
    except ValueError:
        raise ConfigError(f"{what}: {key}={text} is not a number") from None
    return text


def _defect(what: str, error: Exception) -> Exception:
    """The error for what the user's own code raised: a sentence, or itself for whoever debugs."""
    if os.environ.get("PYVMM_DEBUG"):
        return error
    if isinstance(error, SyntaxError):
        where = f"{exceptions.shorten(error.filename or '?')} line {error.lineno}"
        return ConfigError(f"{what} is not Python: {where}: {error.msg}")
    return ConfigError(f"{what} failed in {exceptions.raised_at(error)}: {exceptions.describe(error)}")


_WORDS = {kind.__name__: kind for kind in (int, float, bool, str, bytes)}
