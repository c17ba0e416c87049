"""The network header: what of another guest's is handed on, and checksums and segments made in software."""

from __future__ import annotations

import random

import pytest

from pyvmm.backends.net.base import CSUM, TSO4
from pyvmm.virtio.net.header import LAYOUT, PLAIN, HeaderError, check, complete, left_undone
from tests.support.frames import internet_sum, tcp_frame

TCPV4, TCPV6 = 1, 4


def header(gso: int = 0, gso_size: int = 0, start: int = 34, offset: int = 16, flags: int = 1) -> bytes:
    return LAYOUT.pack(flags, gso, 54, gso_size, start, offset, 0)


def sums_are_right(frame: bytes, ip: int, tcp: int, version: int) -> bool:
    addresses = frame[ip + 12 : ip + 20] if version == 4 else frame[ip + 8 : ip + 40]
    size = len(frame) - tcp
    pseudo = addresses + size.to_bytes(4, "big") + (6).to_bytes(4, "big")
    fine = internet_sum(pseudo + frame[tcp:]) == 0xFFFF
    return fine and (version == 6 or internet_sum(frame[ip : ip + 20]) == 0xFFFF)


@pytest.mark.parametrize(
    "wrong",
    [
        header(flags=0, gso=TCPV4),
        header(start=1000),
        header(start=98, offset=1),
        header(start=65535, offset=65535),
        header(gso=2, gso_size=1000),
        header(gso=3, gso_size=1000),
        header(gso=TCPV4, gso_size=0),
        header(gso=0x80),
    ],
)
def test_header_when_it_breaks_a_rule_is_refused(wrong: bytes) -> None:
    with pytest.raises(HeaderError):
        check(wrong, 100)


def test_header_when_nothing_is_left_to_do_is_handed_on_as_zeroes() -> None:
    assert check(LAYOUT.pack(2, 0, 1, 2, 3, 4, 99), 100) == PLAIN


def test_header_handed_on_says_what_is_left_undone_and_nothing_unknown() -> None:
    safe = check(header(TCPV4 | 0x80, 1448, flags=0xFF), 3000)

    assert LAYOUT.unpack(safe) == (1, 0x81, 54, 1448, 34, 16, 0)
    assert left_undone(safe) == CSUM | TSO4 | 8


@pytest.mark.parametrize("size", [0, 1, 2, 999, 1460])
def test_checksum_when_left_undone_is_completed(size: int) -> None:
    frame, tcp = tcp_frame(random.Random(size).randbytes(size))

    (done,) = complete(header(start=tcp), frame)

    assert internet_sum(done[26:34] + (20 + size).to_bytes(4, "big") + b"\0\0\0\6" + done[tcp:]) == 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("vlan", [False, True])
def test_segments_have_the_payload_in_order_right_checksums_and_flags(version: int, vlan: bool) -> None:
    payload = random.Random(1).randbytes(10_001)
    frame, tcp = tcp_frame(payload, version, vlan)
    ip = 18 if vlan else 14

    frames = complete(header(TCPV4 if version == 4 else TCPV6, 1000, start=tcp), frame)

    assert b"".join(one[tcp + 20 :] for one in frames) == payload
    assert [len(one) - tcp - 20 for one in frames] == [1000] * 10 + [1]
    assert all(sums_are_right(one, ip, tcp, version) for one in frames)
    sequences = [int.from_bytes(one[tcp + 4 : tcp + 8], "big") for one in frames]
    assert sequences == [(0xFFFF_FF00 + 1000 * n) & 0xFFFF_FFFF for n in range(11)]
    flags = [one[tcp + 13] for one in frames]
    assert flags == [0x90] + [0x10] * 9 + [0x19]
    if version == 4:
        assert [int.from_bytes(one[ip + 2 : ip + 4], "big") for one in frames] == [1040] * 10 + [41]
        assert len({one[ip + 4 : ip + 6] for one in frames}) == 11


@pytest.mark.parametrize("gso_size", [1, 10])
def test_segments_when_they_would_be_thousands_are_refused(gso_size: int) -> None:
    frame, tcp = tcp_frame(bytes(60_000))

    with pytest.raises(HeaderError, match="is the most"):
        complete(header(TCPV4, gso_size, start=tcp), frame)


def test_frame_when_it_is_not_what_its_header_says_is_refused_or_made_of_its_own_bytes() -> None:
    source = random.Random(3)
    for _ in range(3000):
        frame = source.randbytes(source.randrange(14, 200))
        if source.random() < 0.5:
            frame = frame[:12] + source.choice([b"\x08\x00", b"\x86\xdd", b"\x81\x00"]) + frame[14:]
        raw = LAYOUT.pack(
            1, source.choice([0, 1, 4, 0x81]), 0, source.randrange(300), source.randrange(220), 16, 0
        )
        try:
            frames = complete(check(raw, len(frame)), frame)
        except HeaderError:
            continue
        assert sum(map(len, frames)) <= len(frame) * (len(frames) + 1)
