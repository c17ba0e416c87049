"""What is told when KVM cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.arch.x86_64.host import PVM, virtualization
from pyvmm.arch.x86_64.inspection import disassemble
from tests.support import programs
from tests.support.firmware_guest import guest

pytestmark = pytest.mark.timeout(60)

emulated_ring0 = pytest.mark.skipif(virtualization() != PVM, reason="this KVM runs ring 0 in hardware")


@pytest.mark.parametrize(
    ("code", "width", "wanted"),
    [
        ("f30fb8c1", 16, ("popcnt", "ax, cx")),
        ("f30fb8c1", 32, ("popcnt", "eax, ecx")),
        ("f3480fb8c1", 64, ("popcnt", "rax, rcx")),
        ("f0480fc70f", 64, ("lock cmpxchg16b", "xmmword ptr [rdi]")),
        ("0f01ca", 64, ("clac", "")),
        ("0f", 64, ("", "")),
        ("", 64, ("", "")),
    ],
)
def test_disassemble_gives_mnemonic_and_operands(code: str, width: int, wanted: tuple[str, str]) -> None:
    assert disassemble(bytes.fromhex(code), width) == wanted


@emulated_ring0
@pytest.mark.kvm
def test_emulation_failure_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    ending = guest(tmp_path, "no_emulation.bin").run()

    assert (ending.code, ending.reason, ending.known) == (5, "unsupported", "inferred")
    assert ending.detail == (
        "vCPU 0: KVM cannot emulate `popcnt eax, ecx` at 0xfffff041 (ring 0, 32-bit mode); this host's KVM "
        "(PVM) emulates ring 0 without it: mask the feature (--cpu host,-popcnt) and tell a Linux kernel "
        "clearcpuid=popcnt, or run it in the lab (pyvmm lab x86_64 -- pyvmm run ...)"
    )


@emulated_ring0
@pytest.mark.kvm
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("f30fb8c1", "`popcnt ax, cx` at 0xfffff000 (real mode)"),
        ("0f01ca", "clearcpuid=smap"),
        ("f20f38f0c1", "host,-sse4_2"),
        ("0f01f9", "host,-rdtscp"),
        ("9b", "without it: run it in the lab"),
    ],
)
def test_emulation_failure_of_a_real_guest_has_advice(tmp_path: Path, code: str, words: str) -> None:
    ending = programs.machine(tmp_path, bytes.fromhex(code)).run()

    assert ending.code == 5
    assert words in ending.detail


@pytest.mark.kvm
def test_triple_fault_says_where(tmp_path: Path) -> None:
    ending = guest(tmp_path, "triple_fault.bin").run()

    assert (ending.code, ending.reason, ending.known) == (7, "triple-fault", "inferred")
    assert ending.detail.startswith("triple fault on vCPU 0")
