"""Whatever is in an image file, a loader loads it or raises ImageError with one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm.boot.errors import ImageError
from pyvmm.boot.x86.detect import detect, load
from pyvmm.boot.x86.firmware import load_firmware_elf, load_firmware_rom
from tests.support.images import (
    CODE,
    COMPRESSORS,
    MIB,
    bzimage,
    multiboot2_header,
    multiboot2_tag,
    multiboot_elf,
    multiboot_header,
    params,
    ram,
    vmlinux,
)

IMAGES = {
    "bzimage": bzimage(COMPRESSORS["gzip"](vmlinux())),
    "lz4": bzimage(COMPRESSORS["lz4"](vmlinux())),
    "elf64": vmlinux(),
    "elf32": vmlinux(bits=32),
    "linux64": vmlinux(note=False),
    "multiboot": multiboot_elf(multiboot_header()),
    "multiboot flat": multiboot_header(0x10003, MIB, MIB, 0, MIB + 0x1000, MIB + 32) + CODE,
    "multiboot2": multiboot_elf(multiboot2_header(multiboot2_tag(5, bytes(12), True), multiboot2_tag(6))),
}
#: Where the headers are: most damage goes there.
HEAD = 0x290
_EXTREMES = [0, 1, 0x7F, 0x80, 0xFF]


@pytest.fixture(autouse=True)
def cache(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))


def _load(data: bytes) -> None:
    with ram(32 * MIB) as memory:
        try:
            load(memory, data, params(memory, "quiet", b"initrd"))
        except ImageError as error:
            sentence = str(error)
            assert "\n" not in sentence
            assert 20 < len(sentence) < 400


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_load_when_cut_at_every_length_of_its_headers_raises_only_image_errors(name: str) -> None:
    data = IMAGES[name]

    for length in (*range(0, min(len(data), HEAD + 64), 3), len(data) - 1):
        with ram(16 * MIB) as memory, contextlib.suppress(ImageError):
            load(memory, data[:length], params(memory))


@pytest.mark.parametrize("name", sorted(IMAGES))
@settings(max_examples=60, deadline=None)
@given(
    damage=st.lists(
        st.tuples(
            st.integers(0, HEAD),
            st.one_of(st.sampled_from(_EXTREMES), st.integers(0, 255)),
            st.integers(1, 8),
        ),
        min_size=1,
        max_size=6,
    ),
    cut=st.one_of(st.none(), st.integers(0, 4096)),
)
def test_load_when_damaged_raises_only_image_errors(
    name: str, damage: list[tuple[int, int, int]], cut: int | None
) -> None:
    data = bytearray(IMAGES[name])
    for at, value, length in damage:
        at %= len(data)
        data[at : at + length] = bytes([value]) * length

    _load(bytes(data[:cut]))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2048))
@example(b"\x7fELF\x02\x01" + bytes(100))
def test_load_when_the_bytes_are_random_raises_only_image_errors(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        detect(data)
    _load(data)


@pytest.mark.parametrize("load_image", [load_firmware_rom, None])
@settings(max_examples=40, deadline=None)
@given(
    data=st.one_of(st.binary(max_size=512), st.binary(max_size=512).map(lambda tail: vmlinux()[:64] + tail))
)
def test_load_firmware_when_the_bytes_are_random_raises_only_image_errors(
    load_image: Callable[[bytes], object] | None, data: bytes
) -> None:
    with ram(16 * MIB) as memory, contextlib.suppress(ImageError):
        if load_image is None:
            load_firmware_elf(memory, data)
        else:
            load_image(data)
