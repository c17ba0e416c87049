"""Where kernel, device tree and initrd go, and what vCPU 0 is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.arch.arm64 import layout, loader
from pyvmm.arch.arm64.platform import Arm64Platform
from pyvmm.boot.devicetree import DeviceTreeError, Tree, pack, unpack
from pyvmm.boot.entry import EL1
from pyvmm.boot.errors import DoesNotFitError, ImageError, NotAKernelError
from pyvmm.config import Config
from pyvmm.memory.guest import GuestMemory
from pyvmm.memory.layout import Part, assemble
from tests.support.arm64_image import image
from tests.support.devicetree_tools import compiled
from tests.support.images import elf

MIB = 1 << 20
RAM = 0x4000_0000


@contextlib.contextmanager
def ram(size: int = 16 * MIB) -> Iterator[GuestMemory]:
    memory = GuestMemory(assemble([Part(size)], 0, RAM))
    try:
        yield memory
    finally:
        memory.close()


def chosen(memory: GuestMemory, at: int) -> dict[str, bytes]:
    size = int.from_bytes(memory.read(at + 4, 4), "big")
    return unpack(memory.read(at, size)).root.children["chosen"].properties


def test_kernel_when_loaded_has_tree_and_initrds_behind_it() -> None:
    with ram() as memory:
        entry = loader.load_kernel(memory, memoryview(image()), [b"one", b"two"], "quiet", Tree(), "serial0")

        assert (entry.mode, entry.ip) == (EL1, RAM)
        assert entry.registers == {"x0": RAM + 2 * MIB, "x1": 0, "x2": 0, "x3": 0}
        told = chosen(memory, RAM + 2 * MIB)
        start = int.from_bytes(told["linux,initrd-start"], "big")
        end = int.from_bytes(told["linux,initrd-end"], "big")
        assert (start, memory.read(start, end - start)) == (RAM + 4 * MIB, b"one\0two")
        assert (told["bootargs"], told["stdout-path"]) == (b"quiet\0", b"serial0\0")
        assert (len(told["kaslr-seed"]), len(told["rng-seed"])) == (8, 64)


def test_kernel_when_there_is_no_initrd_is_told_of_none() -> None:
    with ram() as memory:
        loader.load_kernel(memory, memoryview(image()), [], "", Tree(), None)

        assert not {"linux,initrd-start", "stdout-path"} & set(chosen(memory, RAM + 2 * MIB))


def test_kernel_when_an_elf_for_this_machine_is_entered_there() -> None:
    program = elf([(RAM + MIB, b"\x1f\x20\x03\xd5" * 8, 0x1000)], RAM + MIB + 4, machine=183)
    with ram() as memory:
        entry = loader.load_kernel(memory, memoryview(program), [], "", Tree(), None)

    assert (entry.ip, entry.registers["x0"]) == (RAM + MIB + 4, RAM + 2 * MIB)


def test_kernel_when_an_elf_for_this_machine_names_an_interpreter_is_a_kernel() -> None:
    program = elf([(RAM, b"code", 0x1000)], RAM, machine=183, extra=[3])
    with ram() as memory:
        assert loader.load_kernel(memory, memoryview(program), [], "", Tree(), None).ip == RAM


@pytest.mark.parametrize(
    ("kernel", "initrd", "cmdline", "error", "sentence"),
    [
        (image(), bytes(14 * MIB), "", DoesNotFitError, "initrd has"),
        (image(size=15 * MIB), b"", "", DoesNotFitError, "device tree has"),
        (image(size=17 * MIB), b"", "", DoesNotFitError, "kernel takes"),
        (image(), b"", "x" * 2048, DoesNotFitError, "command line"),
        (elf([(RAM, b"code", 64)], RAM), b"", "", ImageError, "for x86-64, not for ARM64"),
        (elf([(MIB, b"code", 64)], MIB, machine=183), b"", "", DoesNotFitError, "goes to 0x100000"),
        (elf([(MIB, b"code", 64)], MIB, machine=183, extra=[3]), b"", "", NotAKernelError, "an interpreter"),
    ],
)
def test_kernel_when_something_does_not_fit_says_what(
    kernel: bytes, initrd: bytes, cmdline: str, error: type[Exception], sentence: str
) -> None:
    with ram() as memory, pytest.raises(error, match=sentence):
        loader.load_kernel(memory, memoryview(kernel), [initrd], cmdline, Tree(), None)


def test_firmware_when_flat_goes_to_its_place_and_finds_the_tree_at_the_start_of_ram() -> None:
    with ram() as memory:
        entry = loader.load_firmware(memory, memoryview(b"code"), None, RAM + 4 * MIB, "", Tree(), None)

        assert (entry.ip, entry.registers["x0"]) == (RAM + 4 * MIB, RAM)
        assert memory.read(RAM + 4 * MIB, 4) == b"code"


def test_firmware_when_it_lies_at_the_start_of_ram_finds_the_tree_behind_itself() -> None:
    with ram() as memory:
        entry = loader.load_firmware(memory, memoryview(b"code"), None, RAM + 0x1000, "", Tree(), None)

    assert entry.registers["x0"] == RAM + 2 * MIB


def test_firmware_when_outside_ram_says_so() -> None:
    with ram() as memory, pytest.raises(DoesNotFitError, match="not all RAM"):
        loader.load_firmware(memory, memoryview(b"code"), None, RAM + 17 * MIB, "", Tree(), None)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"/dts-v1/;", None, "folder"])
def test_tree_when_the_file_is_none_names_it(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "board.dtb"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)

    with pytest.raises(ImageError, match=r"board\.dtb"):
        loader.read_tree(str(path))


def test_overlay_when_it_does_not_fit_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "extra.dtbo"
    path.write_bytes(compiled("/plugin/; &nobody { };"))

    with pytest.raises(DeviceTreeError, match=r"extra\.dtbo.*nobody"):
        loader.put_overlay(Tree(), str(path))


@pytest.mark.parametrize(
    ("announce", "line"),
    [
        ("auto", "quiet -- single"),
        ("off", "quiet -- single"),
        ("on", "quiet virtio_mmio.device=4K@0xa000000:48 -- single"),
    ],
)
def test_kernel_when_devices_are_to_be_on_its_command_line_has_them_by_the_gics_numbers(
    tmp_path: Path, announce: str, line: str
) -> None:
    board = Tree()
    board.root.set("#address-cells", 2)
    board.root.set("#size-cells", 2)
    (tmp_path / "board.dtb").write_bytes(pack(board))
    config = Config(kernel="x", dtb=str(tmp_path / "board.dtb"), virtio_cmdline=announce)
    platform = Arm64Platform(config, None)  # type: ignore[arg-type]
    platform.virtio = [(layout.MMIO_START, layout.SPI_START)]
    with ram() as memory:
        entry = platform.load_kernel(memory, memoryview(image()), "quiet -- single", [])

        assert chosen(memory, entry.registers["x0"])["bootargs"] == line.encode() + b"\0"
