"""Which feature an instruction belongs to, and what a user is told to do about it."""

from __future__ import annotations

import re

import capstone
import pytest

from pyvmm.arch.x86_64 import masking
from pyvmm.arch.x86_64.features import FEATURES


@pytest.mark.parametrize(
    ("mnemonic", "wanted"),
    [
        ("popcnt", "mask the feature (--cpu host,-popcnt) and tell a Linux kernel clearcpuid=popcnt"),
        ("cmpxchg16b", "mask the feature (--cpu host,-cx16) and tell a Linux kernel clearcpuid=cx16"),
        ("clac", "mask the feature (--cpu host,-smap) and tell a Linux kernel clearcpuid=smap"),
        ("xsavec64", "mask the feature (--cpu host,-xsave) and tell a Linux kernel noxsave"),
        ("xrstor", "mask the feature (--cpu host,-xsave) and tell a Linux kernel noxsave"),
        ("invpcid", "mask the feature (--cpu host,-invpcid) and tell a Linux kernel noinvpcid"),
        ("mwait", "mask the feature (--cpu host,-monitor) and tell a Linux kernel idle=nomwait"),
        ("vmovdqa", "mask the feature (--cpu host,-avx) and tell a Linux kernel clearcpuid=avx"),
        ("verw", "tell a Linux kernel mitigations=off"),
        ("int3", ""),
        ("lar", ""),
        ("vmcall", ""),
        ("", ""),
    ],
)
def test_advice_names_the_feature_and_the_parameter(mnemonic: str, wanted: str) -> None:
    assert masking.advice(mnemonic) == wanted


def test_every_feature_is_one_that_can_be_masked() -> None:
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    mnemonics = [disassembler.insn_name(number) for number in range(1, capstone.x86.X86_INS_ENDING)]

    advice = " ".join(map(masking.advice, mnemonics))
    named = set(re.findall(r"--cpu host,-(\w+)", advice))

    assert "avx" in named and "monitor" in named
    assert named <= set(FEATURES)
