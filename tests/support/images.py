"""Small images made by hand: what the loaders' tests load."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import lz4.block
import zstandard

from pyvmm.boot.x86.e820 import build_e820
from pyvmm.boot.x86.params import BootParams
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.layout import Part, assemble

MIB = 1 << 20
GAP = (0xC0000000, 1 << 32)
CODE = b"\xf4" * 64  # hlt


@contextmanager
def ram(*sizes: int) -> Iterator[GuestMemory]:
    """Guest memory of one host object a size, one after the other around the gap."""
    memory = GuestMemory(assemble([Part(size) for size in sizes], *GAP))
    try:
        yield memory
    finally:
        memory.close()


def params(memory: GuestMemory, cmdline: str = "", *initrds: bytes, rsdp: int = 0) -> BootParams:
    return BootParams(cmdline, initrds, build_e820(memory), rsdp)


def pvh_note(entry: int) -> bytes:
    return struct.pack("<3I4sI", 4, 4, 18, b"Xen\0", entry)


def elf(
    segments: list[tuple[int, bytes, int]],
    entry: int,
    bits: int = 64,
    note: bytes = b"",
    machine: int | None = None,
    kind: int = 2,
    virtual: int = 0,
    extra: list[int] | None = None,
) -> bytes:
    """An ELF file: *segments* as (paddr, data, memsz), *note* in a PT_NOTE, *extra* header types."""
    headers = [(1, paddr, data, memsz) for paddr, data, memsz in segments]
    if note:
        headers.append((4, 0, note, len(note)))
    headers += [(extra_kind, 0, b"", 0) for extra_kind in extra or []]
    ehsize, phsize = (64, 56) if bits == 64 else (52, 32)
    at = -(-(ehsize + phsize * len(headers)) // 8) * 8
    table = body = b""
    for p_type, paddr, data, memsz in headers:
        offset = at + len(body)
        if bits == 64:
            table += struct.pack("<IIQQQQQQ", p_type, 7, offset, paddr + virtual, paddr, len(data), memsz, 4)
        else:
            table += struct.pack("<8I", p_type, offset, paddr + virtual, paddr, len(data), memsz, 7, 4)
        body += data + bytes(-len(data) % 8)
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    code = machine if machine is not None else (62 if bits == 64 else 3)
    layout = "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH"
    header = struct.pack(layout, kind, code, 1, entry, ehsize, 0, 0, ehsize, phsize, len(headers), 0, 0, 0)
    return (ident + header + table).ljust(at, b"\0") + body


def with_symbols(image: bytes, symbols: list[tuple[str, int, int, int]]) -> bytes:
    """An ELF file of 32 or 64 bits with a symbol table: (name, value, size, type) each."""
    wide = image[4] == 2
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in symbols)
    table = bytes(24 if wide else 16)
    at = 1
    for name, value, size, kind in symbols:
        if wide:
            table += struct.pack("<IBBHQQ", at, 1 << 4 | kind, 0, 1, value, size)
        else:
            table += struct.pack("<IIIBBH", at, value, size, 1 << 4 | kind, 0, 1)
        at += len(name.encode()) + 1
    section_names = b"\0.symtab\0.strtab\0.shstrtab\0"
    data = image
    headers = bytes(64 if wide else 40)
    for name, kind, body, link, entry in (
        (b".symtab", 2, table, 2, len(bytes(24 if wide else 16))),
        (b".strtab", 3, names, 0, 0),
        (b".shstrtab", 3, section_names, 0, 0),
    ):
        layout = "<IIQQQQIIQQ" if wide else "<10I"
        place = section_names.index(name + b"\0")
        headers += struct.pack(layout, place, kind, 0, 0, len(data), len(body), link, 1, 8, entry)
        data += body
    header = bytearray(data)
    struct.pack_into("<Q" if wide else "<I", header, 40 if wide else 32, len(data))
    struct.pack_into("<3H", header, 58 if wide else 46, 64 if wide else 40, 4, 3)
    return bytes(header) + headers


def elf_of_sections(sections: dict[bytes, bytes]) -> memoryview:
    """An ELF file of nothing but *sections*."""
    names = b"\0" + b"\0".join([*sections, b".shstrtab"]) + b"\0"
    bodies = [*sections.items(), (b".shstrtab", names)]
    data, headers = bytes(64), bytes(64)
    for name, body in bodies:
        place = names.index(name + b"\0")
        headers += struct.pack("<IIQQQQIIQQ", place, 1, 0, 0, len(data), len(body), 0, 0, 1, 0)
        data += body
    last = len(bodies)
    fields = struct.pack("<QIHHHHHH", len(data), 0, 64, 56, 0, 64, last + 1, last)
    ident = b"\x7fELF\x02\x01\x01".ljust(40, b"\0")
    return memoryview(ident + fields + data[64:] + headers)


def vmlinux(note: bool = True, bits: int = 64) -> bytes:
    return elf(
        [(16 * MIB, CODE * 4, 0x2000), (18 * MIB, b"data", 0x1000)],
        16 * MIB,
        bits,
        pvh_note(16 * MIB + 0x20) if note else b"",
    )


def lz4_legacy(data: bytes, block: int = 8 << 20) -> bytes:
    out = struct.pack("<I", 0x184C2102)
    for at in range(0, len(data), block):
        packed = lz4.block.compress(data[at : at + block], store_size=False)
        out += struct.pack("<I", len(packed)) + packed
    return out


def with_size(packed: bytes, data: bytes) -> bytes:
    return packed + struct.pack("<I", len(data))


COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": lambda data: with_size(bz2.compress(data), data),
    "xz": lambda data: with_size(lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32), data),
    "lzma": lambda data: with_size(lzma.compress(data, lzma.FORMAT_ALONE), data),
    "lz4": lambda data: with_size(lz4_legacy(data), data),
    "zstd": lambda data: with_size(zstandard.ZstdCompressor().compress(data), data),
}


def bzimage(
    payload: bytes = b"",
    version: int = 0x20F,
    xloadflags: int = 1,
    relocatable: int = 1,
    pref_address: int = 16 * MIB,
    init_size: int = 4 * MIB,
    cmdline_size: int = 255,
    initrd_addr_max: int = 0x7FFFFFFF,
    loadflags: int = 1,
) -> bytes:
    """A bzImage with one sector of setup code and *payload* at 0x400 in its kernel."""
    kernel = CODE.ljust(0x400, b"\x90") + payload
    kernel += bytes(-len(kernel) % 16)
    head = bytearray(2 * 512)
    head[0x1F1] = 1
    struct.pack_into("<I", head, 0x1F4, len(kernel) // 16)
    struct.pack_into("<H", head, 0x1FE, 0xAA55)
    head[0x200:0x206] = b"\xeb\x6aHdrS"
    struct.pack_into("<H", head, 0x206, version)
    head[0x211] = loadflags
    struct.pack_into("<I", head, 0x214, 0x100000)
    struct.pack_into("<I", head, 0x22C, initrd_addr_max)
    struct.pack_into("<I", head, 0x230, 0x200000)
    head[0x234], head[0x235] = relocatable, 21
    struct.pack_into("<HI", head, 0x236, xloadflags, cmdline_size)
    struct.pack_into("<II", head, 0x248, 0x400 if payload else 0, len(payload))
    struct.pack_into("<QI", head, 0x258, pref_address, init_size)
    head[0x1EF] = 0xFF  # the sentinel of header.S
    return bytes(head) + kernel


def multiboot_header(flags: int = 3, *addresses: int) -> bytes:
    magic = 0x1BADB002
    return struct.pack(f"<3I{len(addresses)}I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *addresses)


def multiboot2_tag(kind: int, body: bytes = b"", optional: bool = False) -> bytes:
    return struct.pack("<HHI", kind, int(optional), 8 + len(body)) + body + bytes(-len(body) % 8)


def multiboot2_header(*tags: bytes, architecture: int = 0) -> bytes:
    body = b"".join(tags) + multiboot2_tag(0)
    magic, length = 0xE85250D6, 16 + len(body)
    checksum = -(magic + architecture + length) & 0xFFFFFFFF
    return struct.pack("<4I", magic, architecture, length, checksum) + body


def multiboot_elf(header: bytes, bits: int = 32) -> bytes:
    return elf([(MIB, header.ljust(0x100, b"\0") + CODE, 0x1000)], MIB + 0x100, bits)


def pe(
    sections: list[tuple[str, bytes]], machine: int = 0x8664, subsystem: int = 10, wide: bool = True
) -> bytes:
    """A PE image of *sections*, PE32+ where *wide*, with file alignment 512; not to be run."""
    optional = bytearray(240 if wide else 224)
    struct.pack_into("<H", optional, 0, 0x20B if wide else 0x10B)
    struct.pack_into("<H", optional, 68, subsystem)
    start = 0x80
    at = -(-(start + 24 + len(optional) + 40 * len(sections)) // 512) * 512
    table = body = b""
    for name, data in sections:
        stored = -(-len(data) // 512) * 512
        table += struct.pack("<8sIIII16x", name.encode(), len(data), 0x1000, stored, at + len(body))
        body += data.ljust(stored, b"\xcc")
    coff = struct.pack("<HHIIIHH", machine, len(sections), 0, 0, 0, len(optional), 0x22)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start)
    return (head.ljust(start, b"\0") + b"PE\0\0" + coff + optional + table).ljust(at, b"\0") + body
