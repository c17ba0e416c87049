"""How to keep a guest from using an instruction: the CPU feature to mask, the kernel parameter to give.

Names are those of /proc/cpuinfo. Sources: Intel SDM volume 2 (the CPUID flag of each instruction);
Linux Documentation/admin-guide/kernel-parameters.txt. ``clearcpuid=`` takes names since Linux 5.18,
which dropped ``nosmap``.
"""

from __future__ import annotations

_FEATURES = {
    "adcx": "adx",
    "adox": "adx",
    "clac": "smap",
    "clwb": "clwb",
    "cmpxchg16b": "cx16",
    "crc32": "sse4_2",
    "invpcid": "invpcid",
    "lzcnt": "abm",
    "monitor": "monitor",
    "movbe": "movbe",
    "mwait": "monitor",
    "pclmulqdq": "pclmulqdq",
    "popcnt": "popcnt",
    "rdpid": "rdpid",
    "rdseed": "rdseed",
    "rdtscp": "rdtscp",
    "stac": "smap",
    **dict.fromkeys(("andn", "bextr", "blsi", "blsmsk", "blsr"), "bmi1"),
    **dict.fromkeys(("bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx"), "bmi2"),
    **dict.fromkeys(("pcmpestri", "pcmpestrm", "pcmpgtq", "pcmpistri", "pcmpistrm"), "sse4_2"),
}
#: Prefixes of mnemonics.
_FAMILIES = (
    ("xsave", "xsave"),
    ("xrstor", "xsave"),
    ("aes", "aes"),
    ("sha1", "sha_ni"),
    ("sha256", "sha_ni"),
)
#: Kernel parameters to prefer to ``clearcpuid=``, by feature, or by mnemonic where there is no feature.
_PARAMETERS = {
    "invpcid": "noinvpcid",
    "monitor": "idle=nomwait",
    "verw": "mitigations=off",
    "xsave": "noxsave",
}
#: These begin with v, too, but are not VEX-encoded.
_NOT_VEX = frozenset(
    "verr verw vmcall vmclear vmfunc vmlaunch vmload vmmcall vmptrld vmptrst vmread vmresume vmrun vmsave"
    " vmwrite vmxoff vmxon".split()
)


def feature(mnemonic: str) -> str | None:
    """The CPUID feature that an instruction belongs to; None without one."""
    for start, name in _FAMILIES:
        if mnemonic.startswith(start):
            return name
    if mnemonic.startswith("v") and mnemonic not in _NOT_VEX:
        return "avx"
    return _FEATURES.get(mnemonic)


def advice(mnemonic: str) -> str:
    """What to do, as the first part of a sentence; empty when there is no way."""
    name = feature(mnemonic)
    parameter = _PARAMETERS.get(name or mnemonic, f"clearcpuid={name}" if name else "")
    ways = []
    if name:
        ways.append(f"mask the feature (--cpu host,-{name})")
    if parameter:
        ways.append(f"tell a Linux kernel {parameter}")
    return " and ".join(ways)
