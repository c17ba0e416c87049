"""Parsers of what comes from outside: kernel images, unified kernels, firmware, device trees, command lines.

A parser is one line in PARSERS: valid inputs to begin with, and a function that raises whatever is a defect.
Those of ``inputs`` are there, too.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyvmm.arch.arm64 import layout, loader
from pyvmm.backends.disk.base import DiskError
from pyvmm.boot.cmdline import add, encoded, one_line, parameters
from pyvmm.boot.devicetree import DeviceTreeError, Tree, pack, unpack
from pyvmm.boot.elf import ElfImage, section
from pyvmm.boot.entry import REAL
from pyvmm.boot.errors import ImageError
from pyvmm.boot.uki import describe, unified_kernel
from pyvmm.boot.x86.detect import load
from pyvmm.boot.x86.firmware import is_elf, load_firmware_elf, load_firmware_rom
from pyvmm.boot.x86.vmlinux import pvh_entry
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.exec.client import ExecProtocolError
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.layout import Part, assemble
from pyvmm.virtio.errors import DeviceError
from tests.fuzz import inputs
from tests.fuzz.machine import silence
from tests.support import arm64_image, images
from tests.support.images import MIB

#: Bytes of an input; larger ones take longer and find no more.
LONGEST = 32 << 10
#: Bytes at the beginning that headers are in: most changes go there.
HEAD = 0x400
#: Values that a field of 8 bytes or fewer has when something is wrong.
EXTREMES = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
#: Seconds that an input may take, also on a busy host.
PATIENCE = 10.0
#: Characters of a sentence.
SENTENCE = 600

_MULTIBOOT, _MULTIBOOT2 = struct.pack("<I", 0x1BADB002), struct.pack("<I", 0xE85250D6)


def kernel(data: bytes) -> None:
    """Load a kernel of any format for x86-64: vCPU 0 starts in RAM."""
    with images.ram(32 * MIB) as memory:
        entry = load(memory, data, images.params(memory, "quiet -- single", b"initrd"))
        assert entry.ip is not None and memory.contains(entry.ip, 1)


def arm64_kernel(data: bytes) -> None:
    """Load a kernel of any format for arm64: vCPU 0 starts in RAM."""
    memory = GuestMemory(assemble([Part(16 * MIB)], 0, layout.RAM))
    try:
        entry = loader.load_kernel(memory, memoryview(data), [b"initrd"], "quiet", Tree(), None)
        assert entry.ip is not None and memory.contains(entry.ip, 1)
    finally:
        memory.close()


def unified(data: bytes) -> None:
    """The parts of a unified kernel image are parts of the file; another PE image has a description."""
    view = memoryview(data)
    assert describe(view).startswith("a")
    found = unified_kernel(view)
    if found is not None:
        assert 0 < len(found.kernel) <= len(data)
        assert all(len(initrd) <= len(data) for initrd in found.initrds)
        assert "\0" not in found.cmdline


def elf(data: bytes) -> None:
    """Notes and sections of an ELF file lie in it."""
    section(memoryview(data), b".rodata")
    image = ElfImage(data)
    for owner, kind in ((b"Xen", 18), (b"GNU", 1)):
        assert len(image.note(owner, kind) or b"") <= len(data)
    pvh_entry(image)
    image.check_entry(image.physical_entry())


def firmware(data: bytes) -> None:
    """Load firmware: a ROM is whole pages that end at 4 GiB."""
    with images.ram(16 * MIB) as memory:
        if is_elf(data):
            load_firmware_elf(memory, data)
            return
    rom = load_firmware_rom(data)
    assert rom.entry.mode == REAL
    assert rom.base + len(rom.data) == 1 << 32 and not rom.base % 4096


def device_tree(data: bytes) -> None:
    """What is read from a blob is written and read again the same."""
    tree = unpack(data)
    assert pack(unpack(pack(tree))) == pack(tree)


def command_line(data: bytes) -> None:
    """What is added is a parameter, once; the others stay what they were, also in one line."""
    line = data.decode("utf-8", "surrogateescape")
    before = parameters(line)
    assert parameters(one_line(line)) == before
    after = parameters(add(line, ["added=1", "added=2"]))
    at = after.index("added=1")
    assert after[at : at + 2] == ["added=1", "added=2"]
    assert after[:at] + after[at + 2 :] == before
    assert encoded(line, len(data)) == data


_ELVES = [
    images.vmlinux(),
    images.vmlinux(bits=32),
    images.vmlinux(note=False),
    images.elf([(MIB, images.CODE, 64)], MIB, note=images.pvh_note(MIB), extra=[3]),
    bytes(images.elf_of_sections({b".rodata": b"virtio-mmio-cmdline"})),
]
_KERNELS = [
    *_ELVES,
    *(images.bzimage(images.COMPRESSORS[packing](images.vmlinux())) for packing in ("gzip", "lz4")),
    images.bzimage(xloadflags=3),
    images.multiboot_elf(images.multiboot_header()),
    images.multiboot_header(0x10007, MIB, MIB, 0, MIB + 0x1000, MIB + 32) + images.CODE,
    images.multiboot_elf(
        images.multiboot2_header(images.multiboot2_tag(5, bytes(12), True), images.multiboot2_tag(6))
    ),
]
_UNIFIED = [
    images.pe([(".text", b"stub"), (".cmdline", b"quiet\n"), (".initrd", b"x"), (".linux", _KERNELS[5])]),
    images.pe([(".linux", arm64_image.image(body=64))], machine=0xAA64),
    images.pe(
        [(".linux", b"x"), (".profile", b"a"), (".cmdline", b"a"), (".profile", b"b"), (".cmdline", b"b")]
    ),
    images.pe([(".cmdline", b"quiet")], wide=False),
]


def _tree() -> bytes:
    tree = Tree()
    node = tree.root.add("node@0")
    node.set("reg", 0, 1)
    node.set("compatible", "a", "b")
    return pack(tree)


_LINES = [
    b'console=ttyS0 quiet note="a b" -- single',
    b'\n a=1\r\n  b="x\ny"\n--\n',
    b'"--" "',
    b"\xc3\xa0\xff",
]


def _repair(data: bytearray) -> None:
    """Make the checksum of a multiboot header what it must be: without it nothing else of it is read."""
    for magic, words in ((_MULTIBOOT, 2), (_MULTIBOOT2, 3)):
        at = data.find(magic)
        if 0 <= at <= len(data) - 4 * (words + 1):
            total = sum(struct.unpack_from(f"<{words}I", data, at))
            struct.pack_into("<I", data, at + 4 * words, -total & 0xFFFFFFFF)


class Parser(NamedTuple):
    """*seeds*: valid inputs; *run*: what is done with them and their mutations.

    *refusal*: what it raises for those that are not valid; *repair* makes checksums valid again.
    """

    seeds: Sequence[bytes]
    run: Callable[[bytes], None]
    refusal: type[PyvmmError] = ImageError
    repair: Callable[[bytearray], None] = _repair


PARSERS = {
    "kernel": Parser([*_KERNELS, *_UNIFIED], kernel),
    "arm64-kernel": Parser(
        [arm64_image.image(), images.elf([(0x40000000, b"code", 64)], 0x40000000, machine=183)],
        arm64_kernel,
    ),
    "unified": Parser(_UNIFIED, unified),
    "elf": Parser(_ELVES, elf),
    "firmware": Parser([_ELVES[0], _ELVES[1], bytes(0x100) + images.CODE], firmware),
    "device-tree": Parser([_tree()], device_tree, DeviceTreeError),
    "command-line": Parser(_LINES, command_line),
    "disk-header": Parser(inputs.HEADERS, inputs.disk_header, DiskError),
    "overlay": Parser(inputs.OVERLAYS, inputs.overlay, DeviceTreeError),
    "exec-frames": Parser(inputs.FRAMES, inputs.exec_frames, ExecProtocolError, inputs.valid_frames),
    "board": Parser(inputs.BOARDS, inputs.board, ConfigError),
    "options": Parser(inputs.OPTIONS, inputs.options, ConfigError),
    "vhost-front": Parser(inputs.FRONTS, inputs.vhost_front, DeviceError),
    "vhost-back": Parser(inputs.BACKS, inputs.vhost_back, DeviceError),
}


class ParserTarget:
    """One of PARSERS, to be called with inputs.

    *programs*: how many there were; *accepted*: how many of them were valid.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.seeds, self._run, self._refusal, self._repair = PARSERS[name]
        self.programs = self.accepted = 0

    def __call__(self, data: bytes) -> None:
        """Parse one input. Raises whatever is a defect; a refusal in one sentence is none."""
        self.programs += 1
        begin = time.monotonic()
        refusal: PyvmmError | None = None
        try:
            with silence():
                self._run(data)
        except self._refusal as error:
            refusal = error
        if refusal is None:
            self.accepted += 1
        else:
            sentence = str(refusal)
            assert 20 < len(sentence) < SENTENCE and sentence.isprintable(), sentence
        assert time.monotonic() - begin < PATIENCE, "an input took too long"

    def tally(self) -> str:
        """How many inputs there were, and how many were valid."""
        return f"{self.name}: {self.programs} inputs, {self.accepted} accepted\n"

    def mutation(self, rng: random.Random) -> bytes:
        """A seed with fields changed, pieces of others put in, or cut; its checksums are valid again."""
        return self.changed(rng, rng.choice(self.seeds), rng.choice(self.seeds))

    def changed(self, rng: random.Random, one: bytes, other: bytes) -> bytes:
        """*one* with fields changed, pieces of *other* put in, or cut; its checksums are valid again."""
        data = bytearray(one)
        for _ in range(rng.randrange(1, 6)):
            _change(rng, data, other)
        self._repair(data)
        return bytes(data[:LONGEST])


def _change(rng: random.Random, data: bytearray, other: bytes) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, min(len(data), HEAD if rng.random() < 0.8 else LONGEST)))
    what = rng.random()
    if what < 0.6:  # a field
        at -= at % size
        old = int.from_bytes(data[at : at + size], "little")
        near = old + rng.choice((-8, -1, 1, 8, len(data)))
        new = rng.choice((rng.choice(EXTREMES), near, rng.getrandbits(64)))
        data[at : at + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
    elif what < 0.75:  # a piece of another
        begin = rng.randrange(len(other) + 1)
        data[at : at + rng.choice((0, size))] = other[begin : begin + rng.randrange(128)]
    elif what < 0.9:
        data[at : at + size] = rng.randbytes(size)
    else:
        del data[at:]
