"""The configuration space: fields by name, bytes for the guest, torn reads told apart. Section 2.5."""

from __future__ import annotations

import threading

import pytest

from pyvmm.virtio.config_space import ConfigSpace

FIELDS = {"mac": "bytes6", "status": "u16", "pairs": "u8", "speed": "u32", "capacity": "u64"}
SIZE = 21


@pytest.fixture
def space() -> ConfigSpace:
    space = ConfigSpace(FIELDS, frozenset({"status", "speed"}))
    space.mac, space.status, space.pairs = b"\1\2\3\4\5\6", 0x8001, 3
    space.speed, space.capacity = 10_000, 1 << 63
    return space


def test_fields_when_set_lie_one_after_the_other_little_endian(space: ConfigSpace) -> None:
    assert len(space) == SIZE
    assert space.read(0, SIZE).hex(" ") == "01 02 03 04 05 06 01 80 03 10 27 00 00 00 00 00 00 00 00 00 80"
    assert space.fields() == {
        "mac": b"\1\2\3\4\5\6",
        "status": 0x8001,
        "pairs": 3,
        "speed": 10_000,
        "capacity": 1 << 63,
    }


@pytest.mark.parametrize(
    ("offset", "size", "want"), [(17, 8, bytes(3) + b"\x80" + bytes(4)), (21, 4, bytes(4)), (4000, 1, b"\0")]
)
def test_read_when_past_the_end_gives_zeroes(space: ConfigSpace, offset: int, size: int, want: bytes) -> None:
    assert space.read(offset, size) == want


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, b"\0"),
        (5, b"\0\0"),
        (7, b"\0\0"),
        (8, b"\0"),
        (12, b"\0\0"),
        (20, b"\0\0"),
        (21, b"\0"),
        (4000, b"\0"),
    ],
)
def test_write_when_a_byte_of_it_is_read_only_or_past_the_end_stores_nothing(
    space: ConfigSpace, offset: int, data: bytes
) -> None:
    before = space.read(0, SIZE)

    assert space.write(offset, data) is False
    assert space.read(0, SIZE) == before


@pytest.mark.parametrize(("offset", "data"), [(6, b"\x11\x22"), (7, b"\x33"), (9, b"abcd"), (10, b"x")])
def test_write_when_writable_stores_all(space: ConfigSpace, offset: int, data: bytes) -> None:
    generation = space.generation

    assert space.write(offset, data) is True
    assert space.read(offset, len(data)) == data
    assert space.generation == generation


def test_generation_when_the_device_changes_a_field_changes(space: ConfigSpace) -> None:
    before = space.generation
    space.speed = 1

    assert space.generation != before


def test_generation_when_read_before_and_after_tells_every_torn_read(space: ConfigSpace) -> None:
    # The device counts capacity up, both halves alike; a driver reads it by halves (2.5.3).
    done = threading.Event()

    def change() -> None:
        n = 0
        while not done.is_set():
            n = (n + 1) & 0xFFFF_FFFF
            space.capacity = n | n << 32

    thread = threading.Thread(target=change)
    space.capacity = 0
    thread.start()
    whole = 0
    try:
        for _ in range(50_000):
            before = space.generation
            low, high = space.read(13, 4), space.read(17, 4)
            if space.generation == before:
                whole += 1
                assert low == high
    finally:
        done.set()
        thread.join()
    assert whole > 0


def test_changes_when_driver_and_device_make_them_at_once_lose_none(space: ConfigSpace) -> None:
    def drive() -> None:
        for n in range(5000):
            assert space.write(6, n.to_bytes(2, "little"))
            assert space.status == n

    thread = threading.Thread(target=drive)
    thread.start()
    for n in range(5000):
        space.capacity = n
        assert space.capacity == n
    thread.join()

    assert (space.status, space.capacity) == (4999, 4999)


@pytest.mark.parametrize(("name", "value"), [("pairs", 256), ("pairs", -1), ("mac", bytes(7))])
def test_field_when_value_is_too_wide_is_refused(space: ConfigSpace, name: str, value: object) -> None:
    with pytest.raises(OverflowError):
        setattr(space, name, value)


def test_field_when_there_is_none_of_the_name_is_refused(space: ConfigSpace) -> None:
    with pytest.raises(AttributeError, match="mtu"):
        space.mtu = 1500
    with pytest.raises(AttributeError):
        _ = space.mtu


@pytest.mark.parametrize("kind", ["u128", "int", "bytes", "bytes-1", ""])
def test_declaration_when_type_is_unknown_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="none of u8, u16, u32, u64, bytesN"):
        ConfigSpace({"x": kind})


def test_restore_when_length_is_another_is_refused(space: ConfigSpace) -> None:
    with pytest.raises(ValueError, match="20 bytes for a configuration space of 21"):
        space.restore(bytes(20))


def test_restore_when_it_fits_gives_the_fields_back(space: ConfigSpace) -> None:
    other = ConfigSpace(FIELDS)
    other.restore(space.read(0, SIZE))

    assert other.fields() == space.fields()
    assert other.place("status") == (6, 2)
