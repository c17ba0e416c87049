"""How to keep a guest from an instruction: the CPU feature to mask and what a Linux kernel is told.

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
#: What the mnemonics begin with.
_FAMILIES = (
    ("xsave", "xsave"),
    ("xrstor", "xsave"),
    ("aes", "aes"),
    ("sha1", "sha_ni"),
    ("sha256", "sha_ni"),
)
#: Kernel parameters better than ``clearcpuid=``, by feature or, where none stands for it, by mnemonic.
_PARAMETERS = {
    "invpcid": "noinvpcid",
    "monitor": "idle=nomwait",
    "verw": "mitigations=off",
    "xsave": "noxsave",
}
#: They begin with the v of the VEX-encoded ones and are older.
_NOT_VEX = frozenset(
    "verr verw vmcall vmclear vmfunc vmlaunch vmload vmmcall vmptrld vmptrst vmread vmresume vmrun vmsave"
    " vmwrite vmxoff vmxon".split()
)


def feature(mnemonic: str) -> str | None:
    """The feature whose absence keeps a guest from the instruction; None where there is none."""
    for start, name in _FAMILIES:
        if mnemonic.startswith(start):
            return name
    if mnemonic.startswith("v") and mnemonic not in _NOT_VEX:
        return "avx"
    return _FEATURES.get(mnemonic)


def advice(mnemonic: str) -> str:
    """What to do, as words that go before "or"; empty when nothing keeps a guest from the instruction."""
    name = feature(mnemonic)
    parameter = _PARAMETERS.get(name or mnemonic, f"clearcpuid={name}" if name else "")
    ways = []
    if name:
        ways.append(f"mask the feature (--cpu host,-{name})")
    if parameter:
        ways.append(f"tell a Linux kernel {parameter}")
    return " and ".join(ways)
