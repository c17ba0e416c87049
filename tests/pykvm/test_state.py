"""What a vCPU is made of, set and got back; CPUID and MSRs as the guest sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyvmm.pykvm import Kvm, KvmError
from pyvmm.pykvm.abi_host import kvm_guest_debug
from pyvmm.pykvm.const import (
    KVM_EXIT_DEBUG,
    KVM_EXIT_HLT,
    KVM_GUESTDBG_ENABLE,
    KVM_GUESTDBG_SINGLESTEP,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_RUNNABLE,
    KVM_REG_SIZE_U64,
    KVM_REG_X86,
)
from pyvmm.pykvm.const_x86 import KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_VCPUEVENT_VALID_SHADOW
from tests.support.real_mode import CODE, DATA, HLT, RealMode, put, store

pytestmark = pytest.mark.kvm
Guest = Callable[..., RealMode]

MSR_SYSENTER_CS = 0x174
MSR_SYSENTER_ESP = 0x175
NO_MSR = 0xDEAD_0000


@pytest.mark.parametrize(
    ("what", "member", "value"),
    [
        ("regs", "r15", 0x1234_5678_9ABC_DEF0),
        ("sregs", "cr2", 0x1234_5000),
        ("sregs2", "cr2", 0x1234_5000),
        ("fpu", "fcw", 0x0372),
        ("debugregs", "dr6", 0xFFFF_0FF1),
    ],
)
def test_state_when_set_is_got_back(guest: Guest, what: str, member: str, value: int) -> None:
    vcpu = guest(HLT).vcpu
    state = getattr(vcpu, f"get_{what}")()
    assert getattr(state, member) != value

    setattr(state, member, value)
    getattr(vcpu, f"set_{what}")(state)

    assert getattr(getattr(vcpu, f"get_{what}")(), member) == value


def test_xcrs_when_set_are_got_back(guest: Guest) -> None:
    vcpu = guest(HLT).vcpu
    xcrs = vcpu.get_xcrs()
    assert (xcrs.nr_xcrs, xcrs.xcrs[0].xcr) == (1, 0)

    xcrs.xcrs[0].value = 1
    vcpu.set_xcrs(xcrs)

    assert vcpu.get_xcrs().xcrs[0].value == 1


def test_xsave_when_set_is_got_back_by_either_request(kvm: Kvm, guest: Guest) -> None:
    vcpu = guest(HLT).vcpu
    vcpu.set_cpuid2(kvm.get_supported_cpuid())
    size = kvm.check_extension("XSAVE2")
    area = bytearray(vcpu.get_xsave2(max(size, 4096)))
    area[160:176] = bytes(range(16))  # XMM0
    area[512] |= 2  # XSTATE_BV: SSE is there

    vcpu.set_xsave(bytes(area))

    assert bytes(vcpu.get_xsave())[160:176] == bytes(range(16))
    assert vcpu.get_xsave2(max(size, 4096))[160:176] == bytes(range(16))


def test_xsave_when_too_short_is_refused_before_kvm_reads_it(guest: Guest) -> None:
    with pytest.raises(ValueError, match=r"at least 4096 bytes, not 512"):
        guest(HLT).vcpu.set_xsave(bytes(512))


def test_vcpu_events_when_set_are_got_back(guest: Guest) -> None:
    vcpu = guest(HLT).vcpu
    events = vcpu.get_vcpu_events()

    events.nmi.pending = 1
    events.flags |= KVM_VCPUEVENT_VALID_SHADOW
    vcpu.set_vcpu_events(events)

    assert vcpu.get_vcpu_events().nmi.pending == 1


def test_lapic_when_set_is_got_back(guest: Guest) -> None:
    vcpu = guest(HLT, irqchip=True).vcpu
    lapic = vcpu.get_lapic()

    lapic.regs[0x350:0x354] = (0x700).to_bytes(4, "little")
    vcpu.set_lapic(lapic)

    assert bytes(vcpu.get_lapic().regs[0x350:0x354]) == (0x700).to_bytes(4, "little")


def test_mp_state_when_set_is_got_back(guest: Guest) -> None:
    vcpu = guest(HLT, irqchip=True).vcpu
    assert vcpu.get_mp_state() == KVM_MP_STATE_RUNNABLE

    vcpu.set_mp_state(KVM_MP_STATE_HALTED)

    assert vcpu.get_mp_state() == KVM_MP_STATE_HALTED


def test_tsc_khz_when_set_to_what_it_is_stays(guest: Guest) -> None:
    vcpu = guest(HLT).vcpu
    khz = vcpu.get_tsc_khz()

    vcpu.set_tsc_khz(khz)

    assert vcpu.get_tsc_khz() == khz > 100_000


def test_clock_when_set_goes_on_from_there(guest: Guest) -> None:
    vm = guest(HLT).vm
    data = vm.get_clock()

    data.clock, data.flags = 10**18, 0
    vm.set_clock(data)

    assert 10**18 <= vm.get_clock().clock < 10**18 + 60 * 10**9


def test_msrs_when_set_are_read_by_the_guest(guest: Guest) -> None:
    # mov ecx, 0x174; rdmsr; mov [DATA], eax
    machine = guest(b"\x66\xb9\x74\x01\x00\x00\x0f\x32" + store(DATA, 4) + HLT)

    assert machine.vcpu.set_msrs({MSR_SYSENTER_CS: 0x1234, MSR_SYSENTER_ESP: 1 << 40}) == 2

    assert machine.vcpu.get_msrs([MSR_SYSENTER_CS, MSR_SYSENTER_ESP]) == {
        MSR_SYSENTER_CS: 0x1234,
        MSR_SYSENTER_ESP: 1 << 40,
    }
    assert machine.run() == KVM_EXIT_HLT
    assert machine.memory[DATA : DATA + 4] == b"\x34\x12\x00\x00"


def test_msrs_when_one_does_not_exist_stop_before_it(guest: Guest) -> None:
    vcpu = guest(HLT).vcpu

    assert vcpu.set_msrs({MSR_SYSENTER_CS: 1, NO_MSR: 2, MSR_SYSENTER_ESP: 3}) == 1
    assert vcpu.get_msrs([MSR_SYSENTER_CS, NO_MSR, MSR_SYSENTER_ESP]) == {MSR_SYSENTER_CS: 1}


def test_cpuid_when_set_is_got_back_and_seen_by_the_guest(guest: Guest) -> None:
    # mov eax, 0x40000001; cpuid; mov eax, ebx; mov [DATA], eax
    machine = guest(b"\x66\xb8\x01\x00\x00\x40\x0f\xa2\x66\x89\xd8" + store(DATA, 4) + HLT)
    leaves = [
        (0x4000_0000, 0, 0, [0x4000_0001, 1, 2, 3]),
        (0x4000_0001, 0, 0, [0, 0xB00B_1E5, 0, 0]),
        (0xD, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, [1, 2, 3, 4]),
    ]

    machine.vcpu.set_cpuid2(leaves)

    found = machine.vcpu.get_cpuid2()
    assert [leaf[:3] for leaf in found] == [leaf[:3] for leaf in leaves]
    assert found[:2] == leaves[:2]
    assert machine.run() == KVM_EXIT_HLT
    assert int.from_bytes(machine.memory[DATA : DATA + 4], "little") == 0xB00B_1E5


def test_cpuid_when_asked_of_the_host_has_the_basic_leaves(kvm: Kvm) -> None:
    supported = {(function, index) for function, index, _, _ in kvm.get_supported_cpuid()}

    assert {(0, 0), (1, 0), (0x4000_0000, 0), (0x8000_0000, 0)} <= supported
    assert all(len(registers) == 4 for _, _, _, registers in kvm.get_emulated_cpuid())


def test_msr_lists_when_asked_of_the_host_name_registers_that_can_be_read(kvm: Kvm, guest: Guest) -> None:
    listed = kvm.get_msr_index_list()
    features = kvm.get_msr_feature_index_list()

    assert MSR_SYSENTER_CS in listed
    assert len(set(listed)) == len(listed)
    assert set(kvm.get_msrs(features[:1])) == set(features[:1])


def test_guest_debug_when_single_stepping_exits_after_one_instruction(guest: Guest) -> None:
    machine = guest(put(DATA, 1) + put(DATA, 2) + HLT)
    debug = kvm_guest_debug(control=KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)

    machine.vcpu.set_guest_debug(debug)

    assert machine.run() == KVM_EXIT_DEBUG
    assert machine.vcpu.run.debug.arch.pc == CODE + len(put(DATA, 1))
    assert machine.memory[DATA] == 1


def test_kvmclock_ctrl_when_guest_has_no_clock_is_refused(guest: Guest) -> None:
    with pytest.raises(KvmError, match=r"KVM_KVMCLOCK_CTRL failed with EINVAL"):
        guest(HLT).vcpu.kvmclock_ctrl()


def test_one_reg_when_set_is_got_back(guest: Guest) -> None:
    vcpu = guest(HLT).vcpu
    register = KVM_REG_X86 | KVM_REG_SIZE_U64 | 2 << 32 | MSR_SYSENTER_CS  # type 2: an MSR

    try:
        vcpu.set_one_reg(register, 0x77)
    except KvmError as error:
        pytest.skip(f"x86-64 has single registers from Linux 6.18 on: {error}")

    assert vcpu.get_one_reg(register) == 0x77
    assert vcpu.get_msrs([MSR_SYSENTER_CS]) == {MSR_SYSENTER_CS: 0x77}
    assert register not in vcpu.get_reg_list()  # only what has no other request


def test_statistics_when_guest_exits_count_it(guest: Guest) -> None:
    machine = guest(HLT)
    with machine.vcpu.statistics() as vcpu, machine.vm.statistics() as vm:
        before = vcpu.read()

        machine.run()

        after: dict[str, Any] = vcpu.read()
        assert after["exits"] > before["exits"]
        assert after["halt_exits"] == 1
        assert isinstance(after["halt_wait_hist"], list)
        assert vcpu.id.endswith("/vcpu-0")
        assert "remote_tlb_flush" in vm.read()
        assert vcpu.id.startswith(vm.id)
