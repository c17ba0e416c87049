"""CPUID feature bits by the names Linux shows in /proc/cpuinfo.

Sources: Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix E.
Each register's names are listed from bit 0 up; a dot is a bit without a name here.
"""

from __future__ import annotations

EAX, EBX, ECX, EDX = range(4)

_WORDS = {
    (1, 0, EDX): "fpu vme de pse tsc msr pae mce cx8 apic . sep mtrr pge mca cmov pat pse36 pn clflush . dts"
    " acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    (
        1,
        0,
        ECX,
    ): "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm . pcid"
    " dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor",
    (7, 0, EBX): "fsgsbase tsc_adjust sgx bmi1 hle avx2 . smep bmi2 erms invpcid rtm cqm . mpx rdt_a avx512f"
    " avx512dq rdseed adx smap avx512ifma . clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni"
    " avx512bw avx512vl",
    (7, 0, ECX): ". avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni"
    " avx512_bitalg tme avx512_vpopcntdq . la57 . . . . . rdpid . bus_lock_detect cldemote . movdiri"
    " movdir64b enqcmd",
    (7, 0, EDX): ". . avx512_4vnniw avx512_4fmaps fsrm . . . avx512_vp2intersect . md_clear . . . serialize"
    " . tsxldtrk . pconfig arch_lbr ibt . amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl stibp flush_l1d"
    " arch_capabilities . ssbd",
    (0xD, 1, EAX): "xsaveopt xsavec xgetbv1 xsaves xfd",
    (0x8000_0001, 0, EDX): ". . . . . . . . . . . syscall . . . . . . . mp nx . mmxext . . fxsr_opt pdpe1gb"
    " rdtscp . lm 3dnowext 3dnow",
    (
        0x8000_0001,
        0,
        ECX,
    ): "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw"
    " ibs xop skinit wdt . lwp fma4 tce . nodeid_msr . tbm topoext perfctr_core perfctr_nb . bpext ptsc"
    " perfctr_llc mwaitx",
    (0x8000_0008, 0, EBX): "clzero irperf xsaveerptr . rdpru . . . . wbnoinvd . . ibpb . ibrs stibp_amd",
}


def _table() -> dict[str, tuple[int, int, int, int]]:
    return {
        name: (leaf, subleaf, register, bit)
        for (leaf, subleaf, register), names in _WORDS.items()
        for bit, name in enumerate(names.split())
        if name != "."
    }


#: Feature name -> (leaf, subleaf, register index EAX..EDX, bit).
FEATURES = _table()
