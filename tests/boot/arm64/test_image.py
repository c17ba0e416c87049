"""The arm64 kernel image: header, packings, place, and what is wrong with the rest."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot import payload
from pyvmm.boot import unpack as kernel_unpack
from pyvmm.boot.arm64.image import Arm64Image, unpack
from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.host import confined
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.layout import Part, assemble
from tests.support.arm64_image import image

MIB = 1 << 20
RAM = 0x4000_0000
COMPRESSORS = {
    "gzip": gzip.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "xzkern": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYVMM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def zboot(packed: bytes, name: bytes, size: int | None = None, offset: int = 0x80) -> bytes:
    head = b"MZ\0\0zimg" + struct.pack("<II8x32s", offset, len(packed) if size is None else size, name)
    return head.ljust(offset, b"\0") + packed + bytes(16)


def load(data: bytes, memory_size: int = 4 * MIB, base: int = RAM) -> tuple[int, int, bytes]:
    memory = GuestMemory(assemble([Part(memory_size)], 0, base))
    try:
        entry, end = Arm64Image(unpack(data)).load(memory)
        return entry, end, memory.read(entry, 64)
    finally:
        memory.close()


def test_image_when_loaded_lies_at_the_start_of_ram_and_keeps_its_bss() -> None:
    assert load(image()) == (RAM, RAM + 0x30000, image()[:64])


def test_image_when_it_has_a_text_offset_lies_that_far_from_2_mib() -> None:
    assert load(image(text_offset=0x80000))[0] == RAM + 0x80000


def test_image_when_the_header_gives_no_size_is_loaded_as_old_kernels_want() -> None:
    entry, end, _ = load(image(size=0))

    assert (entry, end) == (RAM + 0x80000, RAM + 0x80000 + len(image()))


def test_image_when_ram_does_not_begin_at_2_mib_begins_there() -> None:
    assert load(image(), base=RAM + MIB)[0] == RAM + 2 * MIB


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_unpack_when_in_an_efi_zboot_image_gives_the_image(name: str) -> None:
    assert bytes(unpack(zboot(COMPRESSORS[name](image()), name.encode()))) == image()


@pytest.mark.parametrize("name", ["gzip", "zstd", "xzkern"])
def test_unpack_when_the_file_is_compressed_gives_the_image(name: str) -> None:
    assert bytes(unpack(COMPRESSORS[name](image()))) == image()


def test_unpack_when_zstd_has_a_level_in_its_name_gives_the_image() -> None:
    assert bytes(unpack(zboot(COMPRESSORS["zstd"](image()), b"zstd22"))) == image()


def test_unpack_when_called_again_finds_the_image_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(image())
    unpack(packed)
    monkeypatch.setattr(confined, "call", lambda *_: pytest.fail("unpacked again"))

    assert bytes(unpack(packed)) == image()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF" + bytes(100), "an ELF file"),
        (b"\x27\x05\x19\x56" + bytes(100), "U-Boot image"),
        (b"\xd0\x0d\xfe\xed" + bytes(100), "device tree"),
        (b"070701" + bytes(100), "initramfs"),
        (b"MZ" + bytes(100), "EFI executable"),
        (bytes(0x202) + b"HdrS" + bytes(100), "for x86"),
        (bytes(5000), "begins with zeroes"),
        (b"rubbish" * 20, "begins with 72756262"),
        (gzip.compress(b"not a kernel"), "begins with 6e6f7420"),
    ],
)
def test_image_when_the_file_is_something_else_says_what(data: bytes, sentence: str) -> None:
    with pytest.raises(NotAKernelError, match=sentence):
        Arm64Image(unpack(data))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (image(flags=1), "big-endian"),
        (image(size=1 << 40), "the file is broken"),
        (image(text_offset=1 << 62), "the file is broken"),
        (gzip.compress(image())[:-20], "cut short"),
        (gzip.compress(b""), "nothing is in it"),
        (b"\x1f\x8b" + b"rubbish" * 9, "does not unpack"),
        (zboot(b"x" * 99, b"lzo"), "compressed by 'lzo'"),
        (zboot(b"x" * 99, b"gzip", size=0), "does not lie in the file"),
        (zboot(b"x" * 99, b"gzip", size=1 << 31), "does not lie in the file"),
        (zboot(b"", b"gzip")[:40], "cut short"),
    ],
)
def test_image_when_the_file_is_broken_says_how(data: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        Arm64Image(unpack(data))


def test_image_when_it_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_unpack, "MAX_UNPACKED", 1 << 20)

    for compress in COMPRESSORS.values():
        format = "gzip" if compress is gzip.compress else _name(compress)
        with pytest.raises(kernel_unpack.UnpackError, match="more than 1 MiB"):
            kernel_unpack.unpack(memoryview(compress(bytes(2 << 20))), format)


def _name(compress: object) -> str:
    return next(name for name, function in COMPRESSORS.items() if function is compress)


def test_image_when_it_is_larger_than_ram_says_so() -> None:
    with pytest.raises(DoesNotFitError, match="more memory"):
        load(image(size=8 * MIB))


def test_payload_when_the_format_is_not_told_by_its_first_bytes_is_refused() -> None:
    with pytest.raises(payload.PayloadError):
        payload.unpack_cached(memoryview(bytes(100)))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [image(), gzip.compress(image()), *(zboot(c(image()), n.encode()) for n, c in COMPRESSORS.items())]
    ),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.one_of(st.none(), st.integers(0, 400)),
)
def test_load_when_damaged_raises_only_image_errors(
    whole: bytes, damage: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(whole)
    for at, value in damage:
        data[at % len(data)] = value

    with contextlib.suppress(ImageError):
        load(bytes(data[:cut]))
