"""The host's half of the exec protocol, against frames written by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.exec import frames
from pyvmm.exec.session import (
    EXIT,
    LOST,
    READY,
    ROOM,
    STDOUT,
    ExecProtocolError,
    ExecRequestError,
    ExecSession,
    Request,
)


class Guest:
    """The guest's end: decodes what the session sends, answers as told."""

    def __init__(self, session):
        self.session = session
        self.decoder = frames.Decoder()

    def sent(self):
        return [
            (frame.type, frame.run, frame.payload) for frame in self.decoder.feed(self.session.outgoing())
        ]

    def says(self, type, run=0, payload=b""):
        return self.session.feed(frames.encode(type, run, payload))

    def hello(self, nonce, window=2048, version=frames.VERSION):
        return self.says(frames.GUEST_HELLO, 0, struct.pack("<HHII", version, 0, nonce, window))

    def nonce(self):
        for type, _, payload in self.sent():
            if type == frames.HOST_HELLO:
                return struct.unpack("<HHI", payload)[2]
        raise AssertionError("no HELLO was sent")


@pytest.fixture
def session():
    return ExecSession()


@pytest.fixture
def guest(session):
    return Guest(session)


@pytest.fixture
def ready(session, guest):
    """The guest of a session that was greeted and runs ``cat``."""
    guest.hello(guest.nonce())
    session.run(Request(["cat"]))
    guest.sent()
    return guest


def test_request_when_asked_for_before_the_guest_is_there_waits_for_it(session, guest):
    session.run(Request(["cat"]))
    nonce = guest.nonce()
    assert guest.hello(nonce) == [(READY, 0), (ROOM, 0)]
    [(type, run, body)] = guest.sent()
    assert (type, run) == (frames.HOST_RUN, 1)
    assert body == struct.pack("<HHHI", 0, 0, 0, 65536) + b"acat\0"


def test_session_when_greeted_unasked_greets_back_and_sends_nothing_else(session, guest):
    session.run(Request(["cat"]))
    nonce = guest.nonce()
    assert guest.hello(0) == []
    assert [(type, struct.unpack("<HHI", payload)[2]) for type, _, payload in guest.sent()] == [
        (frames.HOST_HELLO, nonce)
    ]
    guest.hello(nonce)
    assert [type for type, _, _ in guest.sent()] == [frames.HOST_RUN]
    assert guest.hello(nonce) == []  # the answer to the second greeting
    assert session.running
    assert guest.sent() == []


def test_session_when_frames_of_an_earlier_host_come_first_ignores_them(session, guest):
    session.run(Request(["cat"]))
    assert guest.says(frames.GUEST_STDOUT, 1, b"old") == []
    assert guest.says(frames.GUEST_EXIT, 1, bytes(8)) == []
    assert session.running


def test_session_when_the_guest_speaks_another_version_refuses(guest):
    with pytest.raises(ExecProtocolError, match="version 9"):
        guest.hello(1, version=9)


def test_request_when_above_the_window_goes_in_parts_as_credit_comes(session, guest):
    guest.hello(guest.nonce(), window=100)
    request = Request(["x" * 250])
    session.run(request)
    session.eof()
    assert session.send_stdin(b"early") == 0
    got = guest.sent()
    guest.says(frames.GUEST_CREDIT, 0, struct.pack("<I", 100))
    got += guest.sent()
    guest.says(frames.GUEST_CREDIT, 0, struct.pack("<I", 100))
    got += guest.sent()
    types = [frames.HOST_PART, frames.HOST_PART, frames.HOST_RUN, frames.HOST_EOF]
    assert [type for type, _, _ in got] == types
    assert b"".join(payload for _, _, payload in got) == request.body


@given(st.lists(st.integers(1, 5000), max_size=30))
def test_input_never_exceeds_the_credit(grants):
    session = ExecSession()
    guest = Guest(session)
    guest.hello(guest.nonce())
    session.run(Request(["cat"]))
    allowed = 2048
    used = 0
    for grant in grants:
        session.send_stdin(b"x" * 100_000)
        used += sum(len(payload) for _, _, payload in guest.sent())
        assert used == allowed
        guest.says(frames.GUEST_CREDIT, 0, struct.pack("<I", grant))
        allowed += grant


def test_output_when_consumed_is_granted_again_by_quarters(ready, session):
    ready.says(frames.GUEST_STDOUT, 1, b"x" * 16000)
    session.consumed(16000)
    assert ready.sent() == []
    session.consumed(384)
    assert ready.sent() == [(frames.HOST_CREDIT, 1, struct.pack("<I", 16384))]


def test_exit_when_told_ends_the_run_and_frees_the_session(ready, session):
    assert ready.says(frames.GUEST_EXIT, 1, struct.pack("<II", 137, 9)) == [(EXIT, 137)]
    session.run(Request(["next"]))
    assert [(type, run) for type, run, _ in ready.sent()] == [(frames.HOST_RUN, 2)]


def test_frames_of_another_run_are_ignored(ready):
    assert ready.says(frames.GUEST_STDOUT, 2, b"x") == []
    assert ready.says(frames.GUEST_EXIT, 0, bytes(8)) == []


def test_guest_when_it_begins_anew_loses_the_command_and_is_greeted(ready, session):
    assert ready.hello(0) == [(LOST, 0)]
    nonce = ready.nonce()
    assert ready.hello(nonce) == [(READY, 0)]
    session.run(Request(["cat"]))
    assert ready.says(frames.GUEST_STDOUT, 2, b"x") == [(STDOUT, b"x")]


def test_run_when_a_command_is_running_is_refused(ready, session):
    with pytest.raises(ExecRequestError, match="still running"):
        session.run(Request(["other"]))


@pytest.mark.parametrize("argv", [[], ["a\0b"], ["x" * 70000]])
def test_request_when_it_cannot_be_carried_is_refused(argv):
    with pytest.raises(ExecRequestError):
        Request(argv)


def test_numbers_of_runs_wrap_and_leave_out_zero(session, guest):
    guest.hello(guest.nonce())
    seen = []
    for _ in range(300):
        session.run(Request(["x"]))
        [(_, run, body)] = guest.sent()
        guest.says(frames.GUEST_CREDIT, 0, struct.pack("<I", len(body)))
        guest.says(frames.GUEST_EXIT, run, bytes(8))
        seen.append(run)
    assert seen[253:257] == [254, 255, 1, 2]


@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=20))),
)
def test_session_when_the_guest_says_anything_only_raises_what_it_documents(noise, said):
    session = ExecSession()
    guest = Guest(session)
    session.run(Request(["cat"]))
    try:
        guest.hello(guest.nonce())
        session.feed(noise)
        for type, run, payload in said:
            guest.says(type, run, payload)
    except ExecProtocolError:
        pass
    guest.sent()
