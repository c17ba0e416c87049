"""What kernels are compressed by, as functions of bytes; ``host/confined.py`` calls them.

"payload_offset" in Documentation/arch/x86/boot.rst names the formats of a bzImage's payload, EFI_ZBOOT in
drivers/firmware/efi/Kconfig those of an EFI zboot image. A bzImage's build (scripts/Makefile.lib,
``size_append``) puts the unpacked size into the payload's last four bytes; gzip's own trailer is the same
number.
"""

from __future__ import annotations

import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes; more than any kernel has. A larger size field is taken for damage.
MAX_UNPACKED = 1 << 30

_LZ4_MAGIC = 0x184C2102
_LZ4_BLOCK = 8 << 20
_LZMA_MEMORY = 256 << 20
_CHUNK = 1 << 20


class UnpackError(Exception):
    """The bytes do not unpack; the sentence says why."""


class Format:
    """A way of compression.

    :param unpack: (packed, limit) -> the bytes, more than *limit* of them when there are more; raises what
        its library raises
    :param library: the module that it imports, if that is not a part of the interpreter
    """

    def __init__(self, unpack: Callable[[memoryview, int], bytes], library: str = "") -> None:
        self.unpack = unpack
        self.library = library


def format_of(packed: memoryview) -> str:
    """The name of the format in FORMATS, by the first bytes; empty for none."""
    return _MAGICS.get(bytes(packed[:2]), "") if len(packed) >= 8 else ""


def unpack_bzimage(payload: memoryview) -> bytes:
    """What is compressed in a bzImage's *payload*, which tells its size. Raises UnpackError."""
    format = format_of(payload)
    if not format:
        raise UnpackError("the payload is in no known compression format")
    size = int.from_bytes(payload[-4:], "little")
    if not 0 < size <= MAX_UNPACKED:
        raise UnpackError(f"the payload claims to unpack to {size} bytes")
    packed = payload if format == "gzip" else payload[:-4]
    data = _unpack(format, packed, size, "the payload does not unpack")
    if len(data) != size:
        raise UnpackError(f"the payload unpacks to {len(data)} bytes instead of {size}")
    return data


def unpack(packed: memoryview, format: str) -> bytes:
    """What is in *packed*, at most MAX_UNPACKED bytes and at least one. Raises UnpackError."""
    data = _unpack(format, packed, MAX_UNPACKED, "it does not unpack")
    if len(data) > MAX_UNPACKED:
        raise UnpackError(f"it unpacks to more than {MAX_UNPACKED >> 20} MiB")
    if not data:
        raise UnpackError("nothing is in it")
    return data


def _unpack(format: str, packed: memoryview, limit: int, failure: str) -> bytes:
    try:
        return FORMATS[format].unpack(packed, limit)
    except UnpackError:
        raise
    except Exception as error:  # each library raises its own errors
        raise UnpackError(f"{failure}: {error}") from error


def _gzip(packed: memoryview, limit: int) -> bytes:
    unpacker = zlib.decompressobj(31)
    return _whole(unpacker.decompress(packed, limit + 1), limit, unpacker.eof)


def _bzip2(packed: memoryview, limit: int) -> bytes:
    import bz2

    unpacker = bz2.BZ2Decompressor()
    return _whole(unpacker.decompress(packed, limit + 1), limit, unpacker.eof)


def _xz(packed: memoryview, limit: int) -> bytes:
    import lzma

    unpacker = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_LZMA_MEMORY)
    return _whole(unpacker.decompress(packed, limit + 1), limit, unpacker.eof)


def _whole(data: bytes, limit: int, at_end: bool) -> bytes:
    if not at_end and len(data) < limit:
        raise UnpackError("the file is cut short")
    return data


def _zstd(packed: memoryview, limit: int) -> bytes:
    import zstandard

    chunks = []
    total = 0
    with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        while total <= limit and (chunk := reader.read(min(_CHUNK, limit + 1 - total))):
            chunks.append(chunk)
            total += len(chunk)
    return b"".join(chunks)


def _lz4(packed: memoryview, limit: int) -> bytes:
    """The legacy frame: its magic, then blocks, each with its compressed size before it."""
    import lz4.block

    if int.from_bytes(packed[:4], "little") != _LZ4_MAGIC:
        raise UnpackError("the payload is not LZ4 in its legacy framing")
    blocks = []
    total = 0
    at = 4
    while at < len(packed):
        length = int.from_bytes(packed[at : at + 4], "little")
        at += 4
        if length == _LZ4_MAGIC:
            continue
        if length > len(packed) - at:
            raise UnpackError("an LZ4 block reaches beyond the payload")
        block: bytes = lz4.block.decompress(packed[at : at + length], uncompressed_size=_LZ4_BLOCK)
        at += length
        total += len(block)
        if total > limit:
            raise UnpackError(f"the payload unpacks to more than {limit} bytes")
        blocks.append(block)
    return b"".join(blocks)


#: By name; those of an EFI zboot header have the header's.
FORMATS = {
    "gzip": Format(_gzip),
    "bzip2": Format(_bzip2, "bz2"),
    "xzkern": Format(_xz, "lzma"),
    "lzma": Format(_xz, "lzma"),
    "lz4": Format(_lz4, "lz4.block"),
    "zstd": Format(_zstd, "zstandard"),
}
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9e": "gzip",
    b"BZ": "bzip2",
    b"\x5d\x00": "lzma",
    b"\xfd7": "xzkern",
    b"\x02\x21": "lz4",
    b"\x28\xb5": "zstd",
}
