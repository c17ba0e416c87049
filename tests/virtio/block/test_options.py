"""``--disk`` and the board file's ``disk``: from words to a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS, Config, DeviceOptions
from pyvmm.config.toml import read_toml
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.virtio.block.device import Block
from pyvmm.virtio.options import make_device


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def device(text: str) -> Block:
    made = make_device(DEVICE_KINDS["disk"].parse(text))
    assert isinstance(made, Block)
    return made


def test_path_alone_is_a_writable_disk(image: Path) -> None:
    made = device(str(image))
    made.close()

    assert (made.disk.size, made.disk.readonly, len(made.queue_sizes), made.serial) == (1 << 20, False, 1, "")


def test_every_option_is_understood(image: Path) -> None:
    made = device(f"{image},ro,serial=abc,format=raw,queues=4,cache=writethrough,block-size=4096")
    made.close()

    assert (made.config.blk_size, made.config.physical_block_exp, made.config.capacity) == (4096, 0, 2048)
    assert (made.disk.readonly, len(made.queue_sizes), made.serial) == (True, 4, "abc")
    assert made.config.writeback == 0


@pytest.mark.parametrize("name", ["a,b.img", "a,,b,ro", ",serial=x", ":b=:c,path=:d", "a,snapshot"])
def test_name_behind_a_colon_is_taken_as_it_is_whatever_is_in_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(1 << 20))
    made = device(f"ro,serial=abc,path=:{tmp_path}/{name}")
    made.close()

    assert (made.disk.size, made.disk.readonly, made.serial) == (1 << 20, True, "abc")


def test_create_makes_the_image(tmp_path: Path) -> None:
    made = device(f"{tmp_path}/new.img,create=64M")
    made.close()

    assert (tmp_path / "new.img").stat().st_size == 64 << 20


@pytest.mark.parametrize(
    "words",
    [
        "queues=0",
        "queues=17",
        "queues=x",
        "cache=none",
        "format=zip",
        "block-size=1000",
        "create=x",
        "ro=maybe",
        "readonly",
        "serial",
    ],
)
def test_wrong_option_is_one_sentence_and_closes_the_image(image: Path, words: str) -> None:
    with pytest.raises(PyvmmError) as raised:
        device(f"{image},{words}")

    assert "\n" not in str(raised.value)
    device(str(image)).close()


def test_serial_too_long_closes_the_image(image: Path) -> None:
    with pytest.raises(PyvmmError, match="at most 20 printable characters"):
        device(f"{image},serial={'x' * 21}")

    device(str(image)).close()


def test_missing_path_is_named() -> None:
    with pytest.raises(ConfigError, match="path is missing"):
        make_device(DeviceOptions("disk", {"ro": True}))


def test_board_file_takes_paths_from_its_own_folder(tmp_path: Path) -> None:
    board = tmp_path / "a,b" / "board.toml"
    board.parent.mkdir()
    board.write_text('disk = ["one.img,ro", "path=two.img", "/three.img", {path = "four.img", serial = "s"}]')

    config = Config(**read_toml(str(board)))

    folder = str(board.parent)
    assert [one.values["path"] for one in config.devices] == [
        f"{folder}/one.img",
        f"{folder}/two.img",
        "/three.img",
        f"{folder}/four.img",
    ]
    assert config.devices[0].values["ro"] is True
