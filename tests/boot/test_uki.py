"""Unified kernel images: their parts, and what other PE images are called."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.arm64.image import Arm64Image
from pyvmm.boot.errors import ImageError, NotAKernelError
from pyvmm.boot.pe import PeImage
from pyvmm.boot.uki import describe, unified_kernel
from pyvmm.boot.x86.detect import detect
from tests.support.arm64_image import image as arm64_image
from tests.support.images import bzimage, pe

KERNEL = bzimage()


def test_unified_kernel_when_it_has_all_parts_gives_them_without_padding() -> None:
    data = pe(
        [
            (".text", b"stub"),
            (".osrel", b"ID=x"),
            (".cmdline", b"root=LABEL=x quiet\n\0"),
            (".initrd", b"the initrd"),
            (".ucode", b"microcode"),
            (".dtb", b"tree"),
            (".linux", KERNEL),
        ]
    )

    found = unified_kernel(memoryview(data))

    assert found is not None
    assert found.kernel == KERNEL
    assert [bytes(initrd) for initrd in found.initrds] == [b"microcode", b"the initrd"]
    assert (found.cmdline, found.has_dtb) == ("root=LABEL=x quiet\n", True)


def test_unified_kernel_when_it_has_a_kernel_alone_has_no_initrd_and_no_command_line() -> None:
    found = unified_kernel(memoryview(pe([(".linux", KERNEL), (".initrd", b"")], machine=0xAA64)))

    assert found is not None
    assert (list(found.initrds), found.cmdline, found.has_dtb) == ([], "", False)


def test_unified_kernel_when_it_has_profiles_is_the_first() -> None:
    data = pe(
        [
            (".linux", b"kernel"),
            (".cmdline", b"common"),
            (".profile", b"ID=main"),
            (".cmdline", b"first"),
            (".profile", b"ID=rescue"),
            (".cmdline", b"second"),
        ]
    )

    found = unified_kernel(memoryview(data))

    assert found is not None
    assert (bytes(found.kernel), found.cmdline) == (b"kernel", "first")


@pytest.mark.parametrize(
    "data",
    [b"", b"MZ", b"MZ" + bytes(100), KERNEL, pe([(".text", b"code")]), pe([])[:0x90], arm64_image()],
)
def test_unified_kernel_when_it_is_something_else_is_none(data: bytes) -> None:
    assert unified_kernel(memoryview(data)) is None


def test_unified_kernel_when_a_kernels_own_stub_is_broken_is_none() -> None:
    broken = bytearray(pe([(".text", b"code")]))
    struct.pack_into("<H", broken, 0x80 + 6, 97)

    assert unified_kernel(memoryview(broken)) is None
    with pytest.raises(ImageError, match="97 sections, more than 96"):
        PeImage(broken)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (pe([(".linux", b"")]), "section .linux of this unified kernel image is empty"),
        (pe([(".linux", KERNEL)])[:0x500], "section .linux of this PE image would end at byte"),
        (
            pe([(".linux", b"k"), (".initrd", bytes(5000))])[:0x800],
            "section .initrd of this PE image would end",
        ),
    ],
)
def test_unified_kernel_when_it_is_cut_short_says_where(data: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        unified_kernel(memoryview(data))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (pe([(".text", b"code")]), "an EFI application for x86-64"),
        (pe([(".text", b"code")], machine=0x14C, wide=False), "an EFI application for x86"),
        (pe([(".text", b"code")], machine=0xAA64, subsystem=11), "an EFI boot service driver for ARM64"),
        (pe([(".text", b"code")], machine=0x14C, subsystem=3, wide=False), "a Windows program for x86"),
        (pe([], machine=0x1234, subsystem=99), "a PE image for machine 0x1234"),
        (
            pe([(".cmdline", b"quiet")]),
            "an add-on of a unified kernel image for x86-64, with .cmdline and no",
        ),
        (pe([(".text", b"code")])[:0x100], "a Windows or EFI executable that is broken"),
        (b"MZ" + bytes(100), "a DOS program, or a Windows or EFI executable that is cut short"),
    ],
)
def test_describe_when_a_pe_image_is_no_kernel_says_what_it_is(data: bytes, what: str) -> None:
    assert describe(memoryview(data)).startswith(what)
    with pytest.raises(NotAKernelError, match=f"this is {what}.*unified kernel image"):
        detect(data)
    with pytest.raises(NotAKernelError, match=f"this is {what}.* without an arm64 kernel's header"):
        Arm64Image(data)
