"""Frames survive whatever lies around them."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.exec import frames

A_FRAME = st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))


def decode(data, step):
    decoder = frames.Decoder()
    found = []
    for at in range(0, len(data), step):
        found += decoder.feed(data[at : at + step])
    return [(frame.type, frame.run, frame.payload) for frame in found], decoder


def test_frame_is_laid_out_as_documented():
    data = frames.encode(0x04, 7, b"hello")
    assert data[:6] == b"\xf6\x9d\x04\x07\x05\x00"
    assert data[8:13] == b"hello"
    assert int.from_bytes(data[13:], "little") == 0x3610A686  # zlib.crc32(b"hello")


@given(st.lists(A_FRAME, max_size=5), st.integers(1, 50))
def test_frames_when_cut_anywhere_come_out_whole(given_frames, step):
    data = b"".join(frames.encode(*frame) for frame in given_frames)
    found, decoder = decode(data, step)
    assert found == given_frames
    assert decoder.noise == 0


@given(st.lists(st.tuples(st.binary(max_size=40), A_FRAME), max_size=4), st.integers(1, 50))
def test_frames_when_noise_lies_between_come_out(pieces, step):
    data = b"".join(noise + frames.encode(*frame) for noise, frame in pieces)
    # Noise may hold a header that is right by chance only with 16 checked bits and the mark.
    assert decode(data, step)[0] == [frame for _, frame in pieces]


@given(A_FRAME, A_FRAME, st.data())
def test_frame_when_a_bit_flips_is_dropped_and_the_next_one_is_found(first, second, data):
    broken = bytearray(frames.encode(*first))
    at = data.draw(st.integers(0, len(broken) * 8 - 1))
    broken[at // 8] ^= 1 << at % 8
    assert decode(bytes(broken) + frames.encode(*second), 64)[0] == [second]


@given(A_FRAME, A_FRAME, st.data())
def test_frame_when_cut_short_costs_only_itself(first, second, data):
    whole = frames.encode(*first)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    # What follows must be as long as what was lost before the receiver can tell.
    follow = frames.encode(*second) + frames.encode(0, 0, b"\0" * 400)
    assert decode(cut + follow, 64)[0][0] == second


def test_decoder_when_fed_noise_for_ever_holds_little():
    noise = b"\xf6\x9d\xf6 noise" * 100
    decoder = frames.Decoder()
    decoder.feed(noise)
    tracemalloc.start()
    try:
        for _ in range(100):
            assert decoder.feed(noise) == []
        assert tracemalloc.get_traced_memory()[0] < len(noise)
    finally:
        tracemalloc.stop()


def test_reason_that_the_guest_gives_cannot_drive_the_terminal() -> None:
    from pyvmm.exec.request import failure

    assert str(failure(5, b"pyvmm-init: \x1b[2J\x07 no\n")) == r"[Errno 5] \x1b[2J\x07 no"
