from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pyvmm.boot.entry import LONG, PROTECTED
from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.boot.x86 import detect as detection
from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.detect import detect, load
from tests.support.images import (
    CODE,
    COMPRESSORS,
    MIB,
    bzimage,
    elf,
    multiboot2_header,
    multiboot_elf,
    multiboot_header,
    params,
    ram,
    vmlinux,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYVMM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pyvmm" / "payload"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (bzimage(), detection.BZIMAGE),
        (vmlinux(), detection.ELF),
        (multiboot_elf(multiboot_header()), detection.MULTIBOOT),
        (multiboot_header() + CODE, detection.MULTIBOOT),
        (multiboot_elf(multiboot2_header()), detection.MULTIBOOT2),
    ],
)
def test_detect_when_given_a_kernel_names_its_format(data: bytes, kind: str) -> None:
    assert detect(data) == kind
    assert detect(memoryview(data)) == kind


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip-compressed.*unpack it first"),
        (b"\xfd7zXZ\0" + bytes(100), "xz-compressed"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "Zstandard-compressed"),
        (b"BZh9" + bytes(100), "bzip2-compressed"),
        (b"070701" + bytes(100), "initramfs.*as the initrd"),
        (b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(8), "an ARM64 kernel"),
        (b"MZ" + bytes(100), "Windows or EFI executable"),
        (b"!<arch>\n", "Debian package"),
        (b"QFI\xfb" + bytes(100), "qcow2 disk image"),
        (bytes(0x8001) + b"CD001", "CD image"),
        (bytes(0x1FE) + b"\x55\xaa", "boot sector"),
        (b"\x55\xaa\x80" + bytes(100), "option ROM, which a BIOS starts"),
        (b"#!/bin/sh\n", "a script"),
        (bytes(5000), "begins with zeroes"),
        (b"\xde\xad\xbe\xef", "begins with deadbeef"),
        (b"x", "begins with 78"),
    ],
)
def test_detect_when_given_something_else_says_what_it_is(data: bytes, sentence: str) -> None:
    with pytest.raises(NotAKernelError, match=sentence):
        detect(data)


@pytest.mark.parametrize("packing", sorted(COMPRESSORS))
def test_load_when_a_bzimage_unpacks_starts_its_elf_by_pvh(packing: str, cache: Path) -> None:
    image = bzimage(COMPRESSORS[packing](vmlinux()))
    for _ in ("cold", "warm"):
        with ram(64 * MIB) as memory:
            entry = load(memory, image, params(memory, "quiet"))

            assert (entry.mode, entry.ip) == (PROTECTED, 16 * MIB + 0x20)
            assert memory.read(16 * MIB, 64) == CODE
    assert len(list(cache.iterdir())) == 1


def test_load_when_the_unpacked_elf_has_no_pvh_note_starts_at_its_64_bit_entry() -> None:
    image = bzimage(COMPRESSORS["gzip"](vmlinux(note=False)))
    with ram(64 * MIB) as memory:
        entry = load(memory, image, params(memory))

        page = memory.read(lowmem.ZERO_PAGE, 4096)
    assert (entry.mode, entry.ip) == (LONG, 16 * MIB)
    assert page[0x234:0x26C] == image[0x234:0x26C]  # the bzImage's own setup header


def test_load_when_the_payload_is_unpacked_keeps_the_bzimages_limits() -> None:
    image = bzimage(COMPRESSORS["gzip"](vmlinux()), cmdline_size=5, initrd_addr_max=0x1FFFFFF)
    with ram(64 * MIB) as memory:
        load(memory, image, params(memory, "12345", bytes(4096)))
        (base,) = struct.unpack("<Q", memory.read(lowmem.PVH_MODLIST, 8))
        assert base == 32 * MIB - 4096

        with pytest.raises(DoesNotFitError, match="at most 5"):
            load(memory, image, params(memory, "123456"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not compressed at all",
        COMPRESSORS["gzip"](vmlinux())[:-20] + bytes(20),
        COMPRESSORS["gzip"](b"compressed, but no ELF file"),
        COMPRESSORS["xz"](elf([(16 * MIB, CODE, 64)], 0)),
    ],
)
def test_load_when_the_payload_does_not_unpack_starts_the_bzimage_itself(payload: bytes) -> None:
    with ram(64 * MIB) as memory:
        entry = load(memory, bzimage(payload), params(memory))

    assert (entry.mode, entry.ip) == (LONG, 16 * MIB + 0x200)


def test_load_when_told_bzimage_leaves_the_payload_alone(cache: Path) -> None:
    with ram(64 * MIB) as memory:
        entry = load(memory, bzimage(COMPRESSORS["gzip"](vmlinux())), params(memory), "bzimage")

    assert entry.ip == 16 * MIB + 0x200
    assert not cache.exists()


@pytest.mark.parametrize(
    ("data", "how", "mode", "ip"),
    [
        (vmlinux(), "auto", PROTECTED, 16 * MIB + 0x20),
        (vmlinux(), "elf", PROTECTED, 16 * MIB + 0x20),
        (vmlinux(), "pvh", PROTECTED, 16 * MIB + 0x20),
        (vmlinux(), "linux64", LONG, 16 * MIB),
        (multiboot_elf(multiboot_header()), "auto", PROTECTED, MIB + 0x100),
        (multiboot_elf(multiboot_header()), "multiboot", PROTECTED, MIB + 0x100),
        (multiboot_elf(multiboot2_header()), "auto", PROTECTED, MIB + 0x100),
        (multiboot_elf(multiboot2_header()), "multiboot2", PROTECTED, MIB + 0x100),
        (multiboot_elf(multiboot2_header(), 64), "linux64", LONG, MIB + 0x100),
    ],
)
def test_load_when_told_how_does_so(data: bytes, how: str, mode: str, ip: int) -> None:
    with ram(64 * MIB) as memory:
        entry = load(memory, data, params(memory), how)

    assert (entry.mode, entry.ip) == (mode, ip)


@pytest.mark.parametrize(
    ("data", "how", "sentence"),
    [
        (vmlinux() + bytes(4096), "bzimage", "not a bzImage"),
        (bzimage(), "elf", "not an ELF file"),
        (vmlinux(), "multiboot", "no multiboot header"),
        (bzimage(), "uefi", "'uefi' is not a boot method; choose one of auto, bzimage"),
    ],
)
def test_load_when_the_way_does_not_fit_the_file_says_so(data: bytes, how: str, sentence: str) -> None:
    with ram(64 * MIB) as memory, pytest.raises(ImageError, match=sentence):
        load(memory, data, params(memory), how)
