"""The host's half of the exec protocol, against frames written by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.exec import frames
from pyvmm.exec.client import RUNS_MAX, WINDOW_MAX, ExecClient, ExecLostError, ExecProtocolError
from pyvmm.exec.request import ExecRequestError, Request

WINDOW = 2048
INPUT = 4096


class Guest:
    """The guest's end: decodes what the client sends, answers as told, notes what the client tells."""

    def __init__(self):
        self.decoder = frames.Decoder()
        self.out = bytearray()
        #: What happened, in order: ("ready",), ("stdout", number, bytes), ("exit", number, status), ...
        self.told = []
        self.client = ExecClient(self.out.extend, on_ready=lambda: self.told.append(("ready",)))
        self.client.connect()

    def start(self, *argv, **keys):
        return self.client.start(
            Request(argv or ["cat"], **keys),
            on_stdout=lambda run, data: self.told.append(("stdout", run.number, data)),
            on_stderr=lambda run, data: self.told.append(("stderr", run.number, data)),
            on_room=lambda run: self.told.append(("room", run.number)),
            on_exit=lambda run: self.told.append(("exit", run.number, run.status)),
        )

    def sent(self):
        data = bytes(self.out)
        self.out.clear()
        return [(frame.type, frame.run, frame.payload) for frame in self.decoder.feed(data)]

    def says(self, type, run=0, payload=b""):
        """What the client tells when the guest says this."""
        self.told.clear()
        self.client.receive(frames.encode(type, run, payload))
        return list(self.told)

    def hello(self, nonce, window=WINDOW, version=frames.VERSION, inputs=INPUT):
        return self.says(frames.GUEST_HELLO, 0, struct.pack("<HHIII", version, 0, nonce, window, inputs))

    def credit(self, run, size):
        return self.says(frames.GUEST_CREDIT, run, struct.pack("<I", size))

    def exits(self, run, status=0, signal=0):
        return self.says(frames.GUEST_EXIT, run, struct.pack("<II", status, signal))

    def nonce(self):
        for type, _, payload in self.sent():
            if type == frames.HOST_HELLO:
                return struct.unpack("<HHI", payload)[2]
        raise AssertionError("no HELLO was sent")


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture
def ready(guest):
    """A guest that was greeted."""
    guest.hello(guest.nonce())
    guest.sent()
    return guest


@pytest.fixture
def cat(ready):
    """A command of it, whose request the guest has."""
    run = ready.start()
    ready.sent()
    return run


def test_request_when_asked_for_before_the_guest_is_there_waits_for_it(guest):
    run = guest.start()
    nonce = guest.nonce()
    assert run.room == 0
    assert guest.hello(nonce) == [("ready",), ("room", 1)]
    [(type, number, body)] = guest.sent()
    assert (type, number) == (frames.HOST_RUN, 1)
    assert body == struct.pack("<HHHI", 0, 0, 0, 65536) + b"acat\0"


def test_client_when_greeted_unasked_greets_back_and_sends_nothing_else(guest):
    guest.start()
    nonce = guest.nonce()
    assert guest.hello(0) == []
    assert [(type, struct.unpack("<HHI", payload)[2]) for type, _, payload in guest.sent()] == [
        (frames.HOST_HELLO, nonce)
    ]
    guest.hello(nonce)
    assert [type for type, _, _ in guest.sent()] == [frames.HOST_RUN]
    assert guest.hello(nonce) == []  # the answer to the second greeting
    assert guest.client.running == 1
    assert guest.sent() == []


def test_client_when_frames_of_an_earlier_host_come_first_ignores_them(guest):
    run = guest.start()
    assert guest.says(frames.GUEST_STDOUT, 1, b"old") == []
    assert guest.exits(1) == []
    assert not run.ended


def test_client_when_the_guest_speaks_another_version_refuses(guest):
    with pytest.raises(ExecProtocolError, match="version 9"):
        guest.hello(1, version=9)


def test_client_when_the_guest_is_of_the_first_version_says_what_to_do(guest):
    with pytest.raises(ExecProtocolError, match=r"version 1 .* version 2; rebuild the initramfs"):
        guest.says(frames.GUEST_HELLO, 0, struct.pack("<HHII", 1, 0, guest.nonce(), 2048))


def test_request_when_above_the_window_goes_in_parts_as_credit_comes(guest):
    guest.hello(guest.nonce(), window=100)
    request = Request(["x" * 250])
    run = guest.client.start(request)
    run.eof()
    assert run.write(b"early") == 0
    got = guest.sent()
    guest.credit(0, 100)
    got += guest.sent()
    guest.credit(0, 100)
    got += guest.sent()
    types = [frames.HOST_PART, frames.HOST_PART, frames.HOST_RUN, frames.HOST_EOF]
    assert [type for type, _, _ in got] == types
    assert b"".join(payload for _, _, payload in got) == request.body


def test_what_follows_a_request_that_waits_is_bounded(guest):
    run = guest.start()
    for number in range(10_000):
        run.resize(number, 80)
        run.signal(number % 64 + 1)
        run.eof()
    guest.hello(guest.nonce())
    [first, *rest] = guest.sent()
    assert first[0] == frames.HOST_RUN
    assert [payload for type, _, payload in rest if type == frames.HOST_RESIZE] == [
        struct.pack("<HH", 9999, 80)
    ]
    signals = [struct.unpack("<I", payload)[0] for type, _, payload in rest if type == frames.HOST_SIGNAL]
    assert signals == list(range(1, 65))
    assert len(rest) == 1 + 64 + 1


def test_requests_when_the_window_is_small_go_one_after_the_other(guest):
    guest.hello(guest.nonce(), window=100)
    requests = [Request(["x" * 70]), Request(["y" * 70])]
    runs = [guest.client.start(request) for request in requests]
    runs[1].signal(15)
    got = guest.sent()
    guest.credit(0, 100)
    got += guest.sent()
    for run, request in zip(runs, requests, strict=True):
        parts = [payload for type, number, payload in got if number == run.number and type in (2, 3)]
        assert b"".join(parts) == request.body
    assert [number for type, number, _ in got if type == frames.HOST_RUN] == [1, 2]
    assert got[-1][:2] == (frames.HOST_SIGNAL, 2)


@given(st.lists(st.integers(1, 5000), max_size=30))
def test_input_never_exceeds_either_credit(grants):
    guest = Guest()
    guest.hello(guest.nonce(), inputs=3000)
    run = guest.start()
    link, own = WINDOW - len(Request(["cat"]).body), 3000
    for number, grant in enumerate(grants):
        run.write(b"x" * 100_000)
        sent = guest.sent()
        used = sum(len(payload) for type, _, payload in sent if type == frames.HOST_STDIN)
        assert used == min(link, own)
        link, own = link - used, own - used
        if number % 2:
            guest.credit(0, grant)
            link = min(link + grant, WINDOW)
        else:
            guest.credit(run.number, grant)
            own = min(own + grant, 3000)


def test_status_that_no_command_can_have_is_cut_to_one_that_it_can(ready, cat):
    assert ready.exits(1, 0xFFFFFF07, 0xFFFFFF82) == [("exit", 1, 7)]
    assert cat.signal_number == 2


def test_credit_of_a_guest_is_bounded(guest):
    guest.hello(guest.nonce(), window=0xFFFFFFFF, inputs=0xFFFFFFFF)
    run = guest.start()
    for _ in range(3):
        guest.credit(0, 0xFFFFFFFF)
        guest.credit(run.number, 0xFFFFFFFF)
    assert run.write(bytes(3 * WINDOW_MAX)) == WINDOW_MAX


def test_room_is_told_when_it_grows_from_nothing(ready, cat):
    assert cat.write(b"x" * 100_000) == WINDOW - len(Request(["cat"]).body)
    assert ready.credit(0, 1000) == [("room", 1)]
    assert ready.credit(0, 5000) == []
    cat.write(b"x" * 100_000)
    assert ready.credit(0, 1000) == [("room", 1)]
    cat.write(b"x" * 100_000)
    assert ready.client._credit > 0
    assert cat.room == 0
    assert ready.credit(0, 1) == []  # its own credit is used up
    assert ready.credit(1, 1) == [("room", 1)]


def test_room_of_the_link_goes_round(ready):
    runs = [ready.start() for _ in range(4)]
    asked = []

    def take_all(run):
        asked.append(run.number)
        run.write(b"x" * 10)

    for run in runs:
        run.on_room = take_all
    runs[0].write(b"x" * 100_000)
    for _ in range(4):
        for run in runs:
            run._credit = INPUT
        assert ready.client._credit == 0
        ready.credit(0, 10)
    assert asked == [1, 2, 3, 4]


def test_output_when_consumed_is_granted_again_by_quarters(ready, cat):
    ready.says(frames.GUEST_STDOUT, 1, b"x" * 16000)
    cat.consumed(16000)
    assert ready.sent() == []
    cat.consumed(384)
    assert ready.sent() == [(frames.HOST_CREDIT, 1, struct.pack("<I", 16384))]


def test_output_that_nobody_wants_is_granted_again(ready):
    run = ready.client.start(Request(["yes"]))
    ready.sent()
    ready.says(frames.GUEST_STDERR, run.number, b"x" * 16384)
    assert ready.sent() == [(frames.HOST_CREDIT, run.number, struct.pack("<I", 16384))]


def test_output_beyond_the_credit_is_an_error(ready):
    ready.start(window=1000)
    ready.says(frames.GUEST_STDOUT, 1, b"x" * 1000)
    with pytest.raises(ExecProtocolError, match="more output"):
        ready.says(frames.GUEST_STDERR, 1, b"x" * 300)


def test_exit_when_told_ends_the_run(ready, cat):
    assert ready.exits(1, 137, 9) == [("exit", 1, 137)]
    assert (cat.status, cat.signal_number, cat.ended, cat.error) == (137, 9, True, None)
    assert (cat.room, cat.write(b"late")) == (0, 0)
    cat.eof()
    cat.signal(9)
    cat.consumed(1 << 20)
    assert ready.sent() == []
    ready.start("next")
    assert [(type, run) for type, run, _ in ready.sent()] == [(frames.HOST_RUN, 2)]


def test_runs_keep_their_own_output_and_status(ready):
    one, two = ready.start("one"), ready.start("two")
    assert ready.says(frames.GUEST_STDOUT, two.number, b"2") == [("stdout", 2, b"2")]
    assert ready.says(frames.GUEST_STDERR, one.number, b"1") == [("stderr", 1, b"1")]
    assert ready.exits(two.number, 4) == [("exit", 2, 4)]
    assert not one.ended
    assert ready.says(frames.GUEST_STDOUT, two.number, b"late") == []
    assert ready.says(frames.GUEST_STDOUT, 3, b"of none") == []


def test_guest_when_it_begins_anew_loses_every_command_and_is_greeted(ready):
    runs = [ready.start() for _ in range(3)]
    ready.sent()
    assert ready.hello(0) == [("exit", number, None) for number in (1, 2, 3)]
    assert all("began anew" in str(run.error) for run in runs)
    nonce = ready.nonce()
    later = ready.start()
    assert ready.hello(nonce) == [("ready",), ("room", 4)]
    assert ready.says(frames.GUEST_STDOUT, later.number, b"x") == [("stdout", 4, b"x")]


def test_every_command_is_told_of_the_loss_when_one_of_them_raises(ready):
    runs = [ready.start() for _ in range(3)]

    def fail(run):
        raise RuntimeError(str(run.error))

    runs[1].on_exit = fail
    with pytest.raises(RuntimeError, match="the cable"):
        ready.client.disconnect("the cable was cut")
    assert [run.ended for run in runs] == [True] * 3


def test_link_when_it_is_gone_ends_all_and_takes_nothing_until_connected(ready, cat):
    ready.client.disconnect("the machine ended")
    assert (cat.ended, str(cat.error)) == (True, "the machine ended")
    with pytest.raises(ExecLostError, match="the machine ended"):
        ready.start()
    ready.client.disconnect("the machine ended")
    ready.client.connect()
    run = ready.start()
    ready.hello(ready.nonce())
    assert [number for type, number, _ in ready.sent() if type == frames.HOST_RUN] == [run.number]


def test_a_command_too_many_is_refused(ready):
    for _ in range(RUNS_MAX):
        ready.start()
    with pytest.raises(ExecRequestError, match="255 commands are running"):
        ready.start()
    ready.exits(77)
    assert ready.start().number == 77


def test_ping_is_answered_once(ready):
    answers = []
    ready.client.ping(lambda: answers.append(1))
    [(type, run, token)] = ready.sent()
    assert (type, run) == (frames.HOST_PING, 0)
    ready.says(frames.GUEST_PONG, 0, b"\xff\xff\xff\xff")
    assert answers == []
    ready.says(frames.GUEST_PONG, 0, token)
    ready.says(frames.GUEST_PONG, 0, token)
    assert answers == [1]


def test_ping_before_the_guest_is_there_waits_for_it(guest):
    answers = []
    guest.client.ping(lambda: answers.append(1))
    guest.hello(guest.nonce())
    [(type, _, token)] = guest.sent()
    assert type == frames.HOST_PING
    guest.says(frames.GUEST_PONG, 0, token)
    assert answers == [1]


def test_what_is_done_while_bytes_are_received_is_sent_at_once(ready, cat):
    sent = []
    ready.client._sink = sent.append
    cat.on_stdout = lambda run, data: (run.write(data), run.consumed(20000), run.eof())
    ready.client.receive(frames.encode(frames.GUEST_STDOUT, 1, b"one") * 2)
    assert len(sent) == 1


@pytest.mark.parametrize("argv", [[], ["a\0b"], ["x" * 70000]])
def test_request_when_it_cannot_be_carried_is_refused(argv):
    with pytest.raises(ExecRequestError):
        Request(argv)


def test_numbers_of_runs_wrap_and_leave_out_zero(ready):
    seen = []
    for _ in range(300):
        ready.start("x")
        [(_, run, body)] = ready.sent()
        ready.credit(0, len(body))
        ready.exits(run)
        seen.append(run)
    assert seen[253:257] == [254, 255, 1, 2]


@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=20))),
)
def test_client_when_the_guest_says_anything_only_raises_what_it_documents(noise, said):
    guest = Guest()
    guest.start()
    guest.start()
    try:
        guest.hello(guest.nonce())
        guest.client.receive(noise)
        for type, run, payload in said:
            guest.says(type, run, payload)
    except ExecProtocolError:
        pass
    guest.sent()
