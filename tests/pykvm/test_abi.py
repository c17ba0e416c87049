"""Every structure, constant and request number of pykvm against the kernel's headers, for both architectures.

What is compared is found by looking through the package: a structure or constant that is added is
compared from then on.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import pyvmm.pykvm
from pyvmm.pykvm import caps, cpuid, msrs
from tests.support.c_values import symbols, values

MACHINES = ("x86_64", "aarch64")
KINDS = ("abi", "const", "ioctls")


def modules(machine: str, monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """The modules with definitions for *machine*, as they are when imported there."""
    for name in ("abi_host", "abi_run"):
        own = importlib.import_module(f"pyvmm.pykvm.{name}")
        # The test puts both back when it ends.
        monkeypatch.delitem(sys.modules, f"pyvmm.pykvm.{name}")
        monkeypatch.setattr(pyvmm.pykvm, name, own)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    foreign = "_arm64" if machine == "x86_64" else "_x86"
    names = [found.name for found in pkgutil.iter_modules(pyvmm.pykvm.__path__)]
    return [
        importlib.import_module(f"pyvmm.pykvm.{name}")
        for name in names
        if name.split("_")[0] in KINDS and foreign not in name
    ]


def structures(found: list[ModuleType]) -> dict[str, type[ctypes.Structure]]:
    return {
        name: value
        for module in found
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ctypes.Structure) and value is not ctypes.Structure
    }


def members(
    kind: type[ctypes.Structure] | type[ctypes.Union], path: str = "", base: int = 0
) -> Iterator[tuple[str, type, int, int]]:
    """Every member at any depth: C path, type, offset, and its bits when it is a bit field."""
    anonymous = getattr(kind, "_anonymous_", ())
    for name, member, *bits in kind._fields_:
        if name.startswith("_") and not name.startswith("__"):
            continue  # padding the compiler puts in by itself
        here = path if name in anonymous else f"{path}.{name}" if path else name
        offset = base + (getattr(kind, name).offset if not bits else 0)
        if name not in anonymous:
            yield here, member, offset, bits[0] if bits else 0
        element = member
        while issubclass(element, ctypes.Array):
            element, here = element._type_, f"{here}[0]"
        if issubclass(element, (ctypes.Structure, ctypes.Union)) and ctypes.sizeof(member):
            yield from members(element, here, offset)


def set_member(instance: Any, path: str, value: int) -> None:
    *parents, last = path.split(".")
    for part in parents:
        instance = getattr(instance, part.removesuffix("[0]"))
        if part.endswith("[0]"):
            instance = instance[0]
    setattr(instance, last, value)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_structures_when_compiled_have_the_same_sizes_and_offsets(
    machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = {}
    for name, kind in structures(modules(machine, monkeypatch)).items():
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(kind)
        for path, member, offset, bits in members(kind):
            if bits:
                continue
            expected[f"offsetof(struct {name}, {path})"] = offset
            if ctypes.sizeof(member):
                expected[f"sizeof(((struct {name} *)0)->{path})"] = ctypes.sizeof(member)
            else:
                expected[f"sizeof(((struct {name} *)0)->{path}[0])"] = ctypes.sizeof(member._type_)

    found = values(machine, list(expected), tmp_path)

    assert len(expected) > 200
    assert {key: value for key, value in found.items() if value != expected[key]} == {}


def test_bit_fields_when_set_change_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected, source = {}, []
    for name, kind in structures(modules("x86_64", monkeypatch)).items():
        for path, _, _, bits in members(kind):
            if bits:
                instance = kind()
                set_member(instance, path, (1 << bits) - 1)
                expected[f"b{len(source)}"] = bytes(instance)
                source.append(f"const struct {name} b{len(source)} = {{ .{path} = {(1 << bits) - 1} }};")

    found = symbols("x86_64", "\n".join(source), tmp_path)

    assert len(expected) == 16  # eight, in kvm_ioapic_state and once more in kvm_irqchip
    assert found == expected


def test_constants_and_request_numbers_when_compiled_are_the_same(
    machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = {
        name: value
        for module in modules(machine, monkeypatch)
        for name, value in vars(module).items()
        if isinstance(value, int) and name.startswith("KVM")
    }

    found = values(machine, list(expected), tmp_path)

    assert len(expected) > 150
    assert {key: value for key, value in found.items() if value != expected[key]} == {}


def test_capabilities_when_compiled_have_the_same_numbers(machine: str, tmp_path: Path) -> None:
    found = values(machine, [f"?KVM_CAP_{name}" for name in caps.CAPABILITIES], tmp_path)

    named = {name: found[f"?KVM_CAP_{name}"] for name in caps.CAPABILITIES}
    known = {name: value for name, value in named.items() if value is not None}
    assert {name: value for name, value in known.items() if value != caps.CAPABILITIES[name]} == {}
    newest = max(known.values())
    unknown = {name for name in named if name not in known and caps.CAPABILITIES[name] <= newest}
    # Left out for arm64 by the header itself.
    assert unknown <= (
        {"REINJECT_CONTROL", "MCE", "PIT2", "PIT_STATE2", "XEN_HVM", "DEBUGREGS", "XSAVE", "XCRS"}
        if machine == "aarch64"
        else set()
    )


def test_packed_forms_when_compared_have_the_layout_of_their_structures() -> None:
    from pyvmm.pykvm.abi_x86_state import (
        kvm_cpuid2,
        kvm_cpuid_entry2,
        kvm_msr_entry,
        kvm_msr_list,
        kvm_msrs,
    )

    leaf = kvm_cpuid_entry2.from_buffer_copy(cpuid.ENTRY.pack(1, 2, 3, 4, 5, 6, 7))
    entry = kvm_msr_entry.from_buffer_copy(msrs.ENTRY.pack(0x10, 1 << 63))

    assert [leaf.function, leaf.index, leaf.flags, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
    ]
    assert (entry.index, entry.reserved, entry.data) == (0x10, 0, 1 << 63)
    assert kvm_cpuid2.from_buffer_copy(cpuid.HEADER.pack(9)).nent == 9
    assert kvm_msrs.from_buffer_copy(msrs.HEADER.pack(9)).nmsrs == 9
    assert kvm_msr_list.from_buffer_copy(msrs.LIST_HEADER.pack(9)).nmsrs == 9


def test_docstring_when_read_names_every_field_of_its_structure(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = structures(modules(machine, monkeypatch))

    for name, kind in found.items():
        text = kind.__doc__ or ""
        assert f"struct {name} {{" in text
        for path, _, _, _ in members(kind):
            if "." not in path.replace("[0]", ""):
                assert path.replace("[0]", "") in text, f"{name}: {path}"
