"""Which architecture a machine is of: the host's; and what each refuses of the other's."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

import pyvmm.arch
from pyvmm.arch.arm64.platform import Arm64Platform
from pyvmm.arch.x86_64.platform import X86Platform
from pyvmm.config import Config
from pyvmm.errors import ConfigError

KEYS = {
    "dtb": "x",
    "dtb_overlay": ["x"],
    "firmware_base": 1 << 20,
    "gic": "3",
    "ram_base": "1G",
    "uart": "pl011",
}


def native_of(machine: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``pyvmm.arch.native`` as it is when imported on *machine*."""
    own = importlib.import_module("pyvmm.arch.native")
    monkeypatch.delitem(sys.modules, "pyvmm.arch.native")
    monkeypatch.setattr(pyvmm.arch, "native", own)  # the test puts both back when it ends
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    return importlib.import_module("pyvmm.arch.native")


@pytest.mark.parametrize(
    ("machine", "name", "debian"), [("x86_64", "x86_64", "amd64"), ("aarch64", "arm64", "arm64")]
)
def test_native_when_imported_on_a_machine_is_its_architecture(
    machine: str, name: str, debian: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = native_of(machine, monkeypatch)

    assert (name, debian) == (native.NAME, native.DEBIAN)
    assert native.platform() is (Arm64Platform if name == "arm64" else X86Platform)
    parts = (native.chips, native.host(), native.inspection())
    assert [part.__name__.split(".")[2] for part in parts] == [name] * 3
    assert native.read_rom().__module__ == f"pyvmm.arch.{name}.firmware"


@pytest.mark.parametrize("key", Config.ARM64_KEYS)
def test_x86_when_given_a_key_of_arm64_machines_refuses_it_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is for arm64 machines"):
        X86Platform(Config(firmware="x", **{key: KEYS[key]}), None)


def test_arm64_when_given_a_way_to_boot_x86_refuses_it() -> None:
    with pytest.raises(ConfigError, match="'bzimage' is for x86"):
        Arm64Platform(Config(kernel="x", boot="bzimage"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "console_name",
        "channel_name",
        "coalesced",
        "kernel_parameters",
        "polls",
        "port_base",
        "virtio",
        "virtio_size",
    ],
)
def test_platforms_have_the_same_attributes(name: str) -> None:
    machines = X86Platform(Config(firmware="x"), None), Arm64Platform(Config(firmware="x"), None)  # type: ignore[arg-type]

    assert all(hasattr(machine, name) for machine in machines)
