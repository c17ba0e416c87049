"""What surrounds the kernel's build; the build itself takes minutes and is run by ``pyvmm image kernel``."""

from __future__ import annotations

import pytest

from pyvmm.arch import native
from pyvmm.images import kernel


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ("CONFIG_A=y\nCONFIG_N=256\n# CONFIG_B is not set\n", []),
        ("CONFIG_A=y\nCONFIG_N=256\n", []),
        ("CONFIG_A=y\nCONFIG_N=64\n", ["CONFIG_N=256"]),
        ("CONFIG_N=256\nCONFIG_B=y\n", ["CONFIG_A=y", "CONFIG_B=n"]),
    ],
)
def test_options_the_kernel_did_not_take_are_named(config, missing):
    assert kernel.missing_options("# text\nCONFIG_A=y\nCONFIG_N=256\nCONFIG_B=n\n", config) == missing


@pytest.mark.parametrize("architecture", kernel.TARGETS)
def test_fragment_has_each_option_once(architecture):
    lines = kernel.fragment(architecture).splitlines()
    names = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert all(name.startswith("CONFIG_") for name in names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("host", "last"),
    [("amd64", "perl, gcc-aarch64-linux-gnu; "), ("arm64", "perl; ")],
    ids=["cross", "native"],
)
def test_build_without_its_tools_names_their_packages(monkeypatch, host, last):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(native, "DEBIAN", host)
    with pytest.raises(kernel.KernelBuildError, match=f"make, gcc, binutils, flex, bison, bc, tar, .*{last}"):
        kernel.check_tools("arm64")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (["  CC a.o", "a.c:1: error: no", "make: *** Error 2"], "a.c:1: error: no"),
        (["only this"], "only this"),
        ([], "nothing"),
    ],
)
def test_log_of_a_failed_build_is_told_in_a_line(log, words):
    assert kernel.failing_line(log) == words
