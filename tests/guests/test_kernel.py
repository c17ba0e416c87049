"""What surrounds the kernel's build; the build itself takes minutes and is run by ``pyvmm guest kernel``."""

from __future__ import annotations

import pytest

from pyvmm.guests import kernel


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


def test_fragment_has_each_option_once():
    lines = kernel.FRAGMENT.read_text().splitlines()
    names = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert all(name.startswith("CONFIG_") for name in names)
    assert len(names) == len(set(names))


def test_build_without_its_tools_names_their_packages(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(kernel.KernelBuildError, match="make, gcc, binutils, flex, bison, bc, tar"):
        kernel.check_tools()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (["  CC a.o", "a.c:1: error: no", "make: *** Error 2"], "a.c:1: error: no"),
        (["only this"], "only this"),
        ([], "nothing"),
    ],
)
def test_log_of_a_failed_build_is_told_in_a_line(log, words):
    assert kernel.last_words(log) == words
