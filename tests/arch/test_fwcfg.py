"""What fw_cfg tells a guest, read as a guest reads it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.arch.fwcfg import GuestItems, e820_file
from pyvmm.config import Config
from pyvmm.devices import fwcfg
from tests.support.images import MIB, ram


def read(items: GuestItems, key: int, size: int) -> bytes:
    device = fwcfg.FwCfgRegisters(lambda: items)
    device.write(8, 2, int.from_bytes(key.to_bytes(2, "big"), "little"))
    return bytes(device.read(0, 1) for _ in range(size))


def number(items: GuestItems, key: int, size: int) -> int:
    return int.from_bytes(read(items, key, size), "little")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., GuestItems]:
    def make(cmdline: str = "", **keys: object) -> GuestItems:
        with ram(16 * MIB) as memory:
            return GuestItems(
                Config(**keys), memory, cmdline, {"etc/e820": e820_file([(0, 1, 1), (4, 5, 2)])}
            )  # type: ignore[arg-type]

    return make


def test_items_tell_the_machine(made: Callable[..., GuestItems]) -> None:
    items = made(cpus=3)

    assert read(items, fwcfg.SIGNATURE, 5) == b"QEMU\0"
    assert number(items, fwcfg.ID, 4) == 3
    assert number(items, fwcfg.NB_CPUS, 2) == number(items, fwcfg.MAX_CPUS, 2) == 3
    assert number(items, fwcfg.RAM_SIZE, 8) == 16 * MIB


def test_items_tell_what_the_machine_was_started_with(
    made: Callable[..., GuestItems], tmp_path: Path
) -> None:
    kernel, first, second = tmp_path / "kernel", tmp_path / "first", tmp_path / "second"
    kernel.write_bytes(b"the kernel")
    first.write_bytes(b"12345")
    second.write_bytes(b"6")
    items = made("console=ttyS0", kernel=str(kernel), initrd=[str(first), str(second)])

    assert number(items, fwcfg.KERNEL_SIZE, 4) == 10
    assert read(items, fwcfg.KERNEL_DATA, 11) == b"the kernel\0"
    assert number(items, fwcfg.INITRD_SIZE, 4) == 9
    assert read(items, fwcfg.INITRD_DATA, 9) == b"12345\0\0\x006"
    assert number(items, fwcfg.CMDLINE_SIZE, 4) == 14
    assert read(items, fwcfg.CMDLINE_DATA, 14) == b"console=ttyS0\0"


def test_file_when_it_is_gone_or_no_regular_one_is_empty(
    made: Callable[..., GuestItems], tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    items = made(kernel=str(tmp_path / "gone"), initrd=str(fifo))

    assert number(items, fwcfg.KERNEL_SIZE, 4) == number(items, fwcfg.INITRD_SIZE, 4) == 0
    assert read(items, fwcfg.KERNEL_DATA, 4) == read(items, fwcfg.INITRD_DATA, 4) == bytes(4)


def test_machine_without_kernel_has_none(made: Callable[..., GuestItems]) -> None:
    items = made()

    assert number(items, fwcfg.KERNEL_SIZE, 4) == 0
    assert number(items, fwcfg.CMDLINE_SIZE, 4) == 0


def test_command_line_when_it_was_written_in_lines_is_one(made: Callable[..., GuestItems]) -> None:
    assert made("a=1\n  b\n").item(fwcfg.CMDLINE_DATA) == b"a=1 b\0"


def test_directory_leads_to_the_files(made: Callable[..., GuestItems]) -> None:
    items = made()

    count, size, key, _, name = struct.unpack(">IIHH56s", read(items, fwcfg.FILE_DIR, 68))

    assert (count, name.rstrip(b"\0")) == (1, b"etc/e820")
    assert struct.unpack("<QQIQQI", read(items, key, size)) == (0, 1, 1, 4, 5, 2)


def test_guest_memory_takes_and_refuses_transfers() -> None:
    with ram(16 * MIB) as memory:
        items = GuestItems(Config(), memory, "")

        assert items.store(4096, b"data")
        assert items.load(4096, 4) == b"data"
        for address in (16 * MIB - 2, 1 << 40, (1 << 64) - 1):
            assert not items.store(address, b"data")
            assert items.load(address, 4) is None
