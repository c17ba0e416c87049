"""The CPUID leaves a guest sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.x86_64.cpuid import Cpuid, X86CpuModel
from pyvmm.arch.x86_64.features import FEATURES
from pyvmm.errors import ConfigError, StartError

AMD = [0x10, 0x68747541, 0x444D4163, 0x69746E65]
INTEL = [0x1F, 0x756E6547, 0x6C65746E, 0x49656E69]
EBX, ECX, EDX = 1, 2, 3


def supported(vendor: list[int] = AMD) -> list[tuple[int, int, int, list[int]]]:
    return [
        (0, 0, 0, vendor),
        (1, 0, 0, [0xA20F12, 0x00020800, 1 << 13 | 1 << 0, 1 << 9]),
        (4, 0, 1, [0x0121, 0, 0, 0]),
        (4, 3, 1, [0x0163, 0, 0, 0]),
        (7, 0, 1, [0, 1 << 5, 0, 0]),
        (0xB, 0, 1, [0, 0, 0, 0]),
        (0x80000001, 0, 0, [0, 0, 0, 0]),
        (0x80000008, 0, 0, [0x3030, 0, 0, 0]),
        (0x8000001D, 3, 1, [0x163, 0, 0, 0]),
        (0x8000001E, 0, 0, [0, 0, 0, 0]),
        (0x40000000, 0, 0, [0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D]),
    ]


def leaves(cpuid: Cpuid, index: int) -> dict[tuple[int, int], list[int]]:
    return {(function, subleaf): registers for function, subleaf, _, registers in cpuid.entries(index)}


def make(model: str = "host", cpus: int = 1, vendor: list[int] = AMD, deadline: bool = True) -> Cpuid:
    return Cpuid(supported(vendor), X86CpuModel(model), cpus, deadline)


def test_hypervisor_bit_is_set_even_where_kvm_forgets_it() -> None:
    assert leaves(make(), 0)[1, 0][ECX] >> 31 == 1


@pytest.mark.parametrize("provided", [True, False])
def test_tsc_deadline_bit_follows_what_kvm_emulates(provided: bool) -> None:
    assert make(deadline=provided).has("tsc_deadline_timer") is provided


def test_masked_feature_is_gone_and_others_stay() -> None:
    cpuid = make("host,-cx16,-hypervisor")

    assert (cpuid.has("cx16"), cpuid.has("hypervisor"), cpuid.has("pni")) == (False, False, True)


def test_required_feature_that_is_there_is_accepted() -> None:
    assert make("host,+avx2").has("avx2")


def test_required_feature_that_is_missing_is_named() -> None:
    with pytest.raises(StartError, match="does not offer avx512f"):
        make("host,+avx512f")


@pytest.mark.parametrize(
    "text", ["", "max", "host,cx16", "host,-nosuch", "host,-", "host,+avx2,-avx2", "host,,"]
)
def test_cpu_model_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^cpu: "):
        X86CpuModel(text)


@given(cpus=st.integers(1, 254), vendor=st.sampled_from([AMD, INTEL]), data=st.data())
def test_topology_is_one_package_with_a_core_for_each_vcpu(
    cpus: int, vendor: list[int], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, cpus - 1))

    seen = leaves(make(cpus=cpus, vendor=vendor), index)

    bits = (cpus - 1).bit_length()
    assert seen[1, 0][EBX] >> 24 == index
    assert bool(seen[1, 0][EDX] >> 28 & 1) is (cpus > 1)
    assert seen[0xB, 0] == [0, 1, 0x100, index]
    assert seen[0xB, 1] == [bits, cpus, 0x201, index]
    assert seen[0xB, 2][2] >> 8 & 0xFF == 0, "the list of levels ends"
    assert seen[4, 3][0] >> 26 == min((1 << bits) - 1, 63), "cores in the package"
    if vendor is AMD:
        assert seen[0x80000008, 0][ECX] & 0xFF == cpus - 1
        assert seen[0x8000001E, 0][0] == index


def test_leaf_4_with_many_cpus_stays_inside_its_six_bits() -> None:
    assert leaves(make(cpus=254, vendor=INTEL), 0)[4, 3][0] < 1 << 32


def test_feature_names_are_those_of_the_words_they_stand_in() -> None:
    # Spot checks against the processor manuals.
    assert FEATURES["cx16"] == (1, 0, ECX, 13)
    assert FEATURES["popcnt"] == (1, 0, ECX, 23)
    assert FEATURES["smap"] == (7, 0, EBX, 20)
    assert FEATURES["lm"] == (0x80000001, 0, EDX, 29)
    assert FEATURES["topoext"] == (0x80000001, 0, ECX, 22)
    assert FEATURES["rdpid"] == (7, 0, ECX, 22)
    assert FEATURES["arch_capabilities"] == (7, 0, EDX, 29)
    assert FEATURES["ibpb"] == (0x80000008, 0, EBX, 12)


def test_feature_names_cover_what_this_kernel_shows() -> None:
    with open("/proc/cpuinfo", encoding="ascii") as file:
        flags = next(line for line in file if line.startswith("flags")).split(":")[1].split()
    # Names Linux makes up itself (synthetic words), which no CPUID bit stands for.
    synthetic = set(
        "constant_tsc rep_good nopl xtopology nonstop_tsc cpuid extd_apicid tsc_known_freq arch_perfmon"
        " pebs bts vmmcall ssbd ibrs ibpb stibp aperfmperf arat tsc_reliable eagerfpu pti vnmi npt"
        " nrip_save lbrv svm_lock cpuid_fault ibrs_enhanced vmx".split()
    )
    unknown = set(flags) - set(FEATURES) - synthetic

    assert len(unknown) < len(flags) / 10, sorted(unknown)
