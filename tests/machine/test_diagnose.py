"""What is told when KVM cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.arch.x86_64.host import PVM, SVM, virtualization
from pyvmm.arch.x86_64.inspection import disassemble
from pyvmm.config import Config
from pyvmm.machine.diagnose import diagnose
from pyvmm.machine.machine import Machine
from pyvmm.pykvm import Kvm
from pyvmm.pykvm.const import KVM_EXIT_SHUTDOWN
from tests.support import programs
from tests.support.firmware_guest import Transcript, guest
from tests.support.images import MIB, elf, ram, with_symbols

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


@pytest.mark.kvm
def test_place_in_an_elf_kernel_with_symbols_is_named(tmp_path: Path) -> None:
    # ud2 with no interrupt descriptor table: a triple fault.
    code = b"\x90" * 0x28 + b"\x0f\x0b"
    symbols = [("start", 16 * MIB, 0x20, 2), ("crash_here", 16 * MIB + 0x20, 0x10, 2)]
    path = tmp_path / "vmlinux"
    path.write_bytes(with_symbols(elf([(16 * MIB, code, 0x1000)], 16 * MIB), symbols))
    config = Config(kernel=str(path), memory="32M", console="none", timeout=30)

    with Machine(config, console=Transcript()) as machine:
        ending = machine.run()

    assert (ending.code, ending.reason) == (7, "triple-fault"), ending
    if virtualization() != SVM:  # there KVM resets a vCPU before it reports the shutdown
        assert "at 0x1000028 in crash_here+0x8 (ring 0, 64-bit mode)" in ending.detail


@pytest.mark.kvm
def test_triple_fault_when_kvm_has_reset_the_processor_names_no_place() -> None:
    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu, ram(MIB) as memory:
        ending = diagnose(vcpu, 0, memory, None, KVM_EXIT_SHUTDOWN)
        regs = vcpu.get_regs()
        regs.rip = 0x1234
        vcpu.set_regs(regs)
        elsewhere = diagnose(vcpu, 0, memory, None, KVM_EXIT_SHUTDOWN)

    assert ending.detail == "triple fault on vCPU 0; the processor does not tell where"
    assert elsewhere.detail == "triple fault on vCPU 0 at 0xffff1234 (real mode)"
