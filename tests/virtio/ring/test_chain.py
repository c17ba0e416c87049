"""One request: reading and writing it like a file, in parts and across its views."""

from __future__ import annotations

import pytest

from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.ring.chain import Chain

READABLE = (b"ab", b"cdefg", b"h")
ROOM = (3, 1, 4)


@pytest.fixture
def chain() -> Chain:
    return Chain(
        7, [memoryview(part) for part in READABLE], [memoryview(bytearray(b"." * size)) for size in ROOM]
    )


def written(chain: Chain) -> bytes:
    return b"".join(chain.writable)


def test_sizes_are_those_of_all_views(chain: Chain) -> None:
    assert (chain.head, chain.readable_size, chain.writable_size) == (7, 8, 8)


@pytest.mark.parametrize("sizes", [(8,), (2, 6), (1, 1, 1, 5), (3, 5), (0, 7, 0, 1), (1, 7)])
def test_read_when_in_parts_gives_all_in_order(chain: Chain, sizes: tuple[int, ...]) -> None:
    parts = [chain.read(size) for size in sizes]

    assert [len(part) for part in parts] == list(sizes)
    assert b"".join(parts) == b"abcdefgh"


@pytest.mark.parametrize("first", [0, 2, 8])
def test_read_when_the_driver_gave_less_raises_and_reads_nothing(chain: Chain, first: int) -> None:
    chain.read(first)
    with pytest.raises(ChainError, match=f"gave {8 - first} bytes where the device reads {9 - first}"):
        chain.read(9 - first)

    assert chain.read(8 - first) == b"abcdefgh"[first:]


def test_read_when_the_guest_changes_it_later_is_a_copy() -> None:
    memory = bytearray(b"before")
    chain = Chain(0, [memoryview(memory)], [])
    data = chain.read(6)
    memory[:] = b"after!"

    assert data == b"before"


def test_read_rest_when_within_the_limit_gives_what_was_not_read(chain: Chain) -> None:
    chain.read(3)

    assert (chain.read_rest(5), chain.read_rest(0)) == (b"defgh", b"")


def test_read_rest_when_beyond_the_limit_is_refused(chain: Chain) -> None:
    with pytest.raises(ChainError, match="gave 8 bytes where the device takes 7"):
        chain.read_rest(7)


def test_skip_when_within_goes_on_behind(chain: Chain) -> None:
    chain.skip(4)

    assert chain.read(4) == b"efgh"
    with pytest.raises(ChainError, match="gave 0 bytes where 1 are to be passed over"):
        chain.skip(1)


@pytest.mark.parametrize("pieces", [(b"12345678",), (b"123", b"4", b"5678"), (b"1", b"2345", b"", b"678")])
def test_write_when_in_parts_fills_the_views_in_order(chain: Chain, pieces: tuple[bytes, ...]) -> None:
    assert [chain.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
    assert (written(chain), chain.written) == (b"12345678", 8)


def test_write_when_there_is_less_room_says_how_much_found_some(chain: Chain) -> None:
    assert (chain.write(b"12345"), chain.write(b"67890"), chain.write(b"more")) == (5, 3, 0)
    assert (written(chain), chain.written) == (b"12345678", 8)


@pytest.mark.parametrize("data", [bytearray(b"12"), memoryview(b"12"), memoryview(b"\x31\x32").cast("H")])
def test_write_when_data_is_any_buffer_takes_its_bytes(chain: Chain, data: bytearray | memoryview) -> None:
    assert chain.write(data) == 2
    assert written(chain) == b"12......"


def test_write_when_nothing_is_writable_writes_nothing() -> None:
    chain = Chain(0, [memoryview(b"x")], [])

    assert (chain.write(b"data"), chain.written) == (0, 0)


def test_rest_when_part_was_used_shows_what_is_left(chain: Chain) -> None:
    chain.read(3)
    chain.write(b"12345")

    assert b"".join(chain.rest_readable()) == b"defgh"
    assert [len(view) for view in chain.rest_writable()] == [3]


def test_rest_when_filled_by_others_is_written_once_they_say_so(chain: Chain) -> None:
    chain.rest_writable()[0][:2] = b"by"
    chain.written += 2

    assert chain.write(b"te") == 2
    assert written(chain) == b"byte...."
