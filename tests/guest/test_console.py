"""What a guest prints, looked for; no machine is needed."""

from __future__ import annotations

import asyncio
import re
import threading
import time

import pytest

from pyvmm.errors import ConfigError
from pyvmm.guest.console import KEPT, MATCH_MAX, GuestConsole
from pyvmm.guest.errors import GuestEnded, GuestTimeout, UnwantedOutput
from pyvmm.guest.watch import Watch
from pyvmm.loop import Loop
from pyvmm.machine.ending import OK, TOLD, Ending

LIMIT = 20


class Printed:
    """A console whose guest is the test."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.ending: Ending | None = None
        self.console = GuestConsole(self.watch, lambda: self.ending, lambda: self.console.text)

    def prints(self, data: bytes) -> None:
        self.console.backend.write(data)

    def ends(self) -> None:
        with self.watch.condition:
            self.ending = Ending(OK, "poweroff", TOLD, "the guest powered off")
        self.watch.changed()


@pytest.fixture
def guest() -> Printed:
    return Printed()


def test_expect_gives_the_match_and_what_came_before_it(guest: Printed) -> None:
    guest.prints(b"Debian\r\nlocalhost login: ")

    match = guest.console.expect(r"(\w+) login: ", LIMIT)

    assert match[1] == "localhost"
    assert match.string[: match.start()] == "Debian\r\n"


def test_expect_goes_on_behind_the_last_match(guest: Printed) -> None:
    guest.prints(b"one two one")

    assert guest.console.expect("one", LIMIT).start() == 0
    assert guest.console.expect("one", LIMIT).start() == len(" two ")
    with pytest.raises(GuestTimeout, match="was to show 'one': not within 0 s"):
        guest.console.expect("one", 0)


def test_expect_matches_bytes_with_a_pattern_of_bytes_and_any_compiled_pattern(guest: Printed) -> None:
    guest.prints(b"\xff\xfe Gr\xc3\xbc\xc3\x9fe \xff END")

    assert guest.console.expect(rb"\xfe", LIMIT)[0] == b"\xfe"
    assert guest.console.expect("Grüße", LIMIT)[0] == "Grüße"
    assert guest.console.expect(re.compile("e.d", re.IGNORECASE), LIMIT)[0] == "END"


def test_expect_waits_for_output_that_comes_in_pieces(guest: Printed) -> None:
    waiter = threading.Thread(target=guest.console.expect, args=("Grüße!", LIMIT))
    waiter.start()

    for byte in "... Grüße!".encode():
        guest.prints(bytes((byte,)))
    waiter.join(LIMIT)

    assert not waiter.is_alive()


def test_expect_when_the_guest_ends_looks_once_more_and_raises_with_the_last_lines(guest: Printed) -> None:
    guest.prints(b"one\r\nlast words\r\n")
    guest.ends()

    assert guest.console.expect("one", LIMIT)
    with pytest.raises(GuestEnded, match="poweroff") as caught:
        guest.console.expect("two", LIMIT)
    assert str(caught.value).endswith("the last lines of the guest's console:\none\nlast words")
    assert caught.value.ending is guest.ending


def test_the_end_wakes_every_waiter_at_once(guest: Printed) -> None:
    caught: list[Exception] = []

    def wait() -> None:
        try:
            guest.console.expect("never printed")
        except GuestEnded as error:
            caught.append(error)

    waiters = [threading.Thread(target=wait) for _ in range(8)]
    for waiter in waiters:
        waiter.start()
    guest.ends()
    for waiter in waiters:
        waiter.join(LIMIT)

    assert len(caught) == 8


def test_expect_with_never_raises_when_that_comes_first(guest: Printed) -> None:
    guest.prints(b"BUG: soft lockup\nlogin: ")

    with pytest.raises(UnwantedOutput, match="'login: ', and shows 'BUG:' before") as caught:
        guest.console.expect("login: ", LIMIT, never=["panic", "BUG:"])
    assert isinstance(caught.value.match, re.Match)
    assert guest.console.expect("login: ", LIMIT)


def test_expect_with_never_does_not_mind_what_comes_behind_the_match(guest: Printed) -> None:
    guest.prints(b"login: BUG:")

    assert guest.console.expect("login: ", LIMIT, never=["BUG:"])


def test_expect_with_never_raises_as_soon_as_that_comes(guest: Printed) -> None:
    begun = time.monotonic()
    threading.Thread(target=guest.prints, args=(b"Oops",)).start()

    with pytest.raises(UnwantedOutput):
        guest.console.expect("login: ", LIMIT, never=[b"Oops"])
    assert time.monotonic() - begun < LIMIT


def test_marks_tell_what_came_since(guest: Printed) -> None:
    guest.prints(b"before ")
    mark = guest.console.mark()
    guest.prints(b"after")

    assert guest.console.since(mark) == "after"
    assert guest.console.text == "before after"


def test_flood_keeps_the_last_mebibyte_and_marks_stay_right(guest: Printed) -> None:
    line = b"%63d\n"
    for number in range(5 * KEPT // 64):
        guest.prints(line % number)
    mark = guest.console.mark()
    guest.prints(b"the end")

    assert KEPT <= len(guest.console.data) <= 2 * KEPT + 64
    assert guest.console.since(mark) == "the end"
    assert guest.console.since(0) == guest.console.text
    assert guest.console.expect(f"{5 * KEPT // 64 - 1}\nthe end", LIMIT)


def test_settle_waits_for_silence(guest: Printed) -> None:
    printing = threading.Event()

    def babble() -> None:
        for _ in range(20):
            guest.prints(b".")
            printing.wait(0.02)
        guest.prints(b"done")

    threading.Thread(target=babble).start()
    guest.console.settle(0.5, LIMIT)

    assert guest.console.text.endswith("done")


def test_settle_gives_up_with_a_guest_that_never_stops(guest: Printed) -> None:
    over = threading.Event()

    def babble() -> None:
        while not over.wait(0.01):
            guest.prints(b".")

    thread = threading.Thread(target=babble)
    thread.start()
    try:
        with pytest.raises(GuestTimeout, match="quiet for 5 s"):
            guest.console.settle(5, 0.3)
    finally:
        over.set()
        thread.join()


def test_typed_text_waits_for_the_guest_to_read(guest: Printed) -> None:
    taken = bytearray()
    room = 4

    def receive(data: bytes) -> None:
        nonlocal room
        room -= len(data)
        taken.extend(data)

    with Loop() as loop:
        guest.console.backend.attach(loop, receive, lambda: room)
        guest.console.send("ls")
        guest.console.sendline(" -l")
        guest.console.control("c")
        while loop.run_once(0):
            pass
        assert taken == b"ls -"
        assert guest.console.backend.pending == 3
        room = 16
        guest.console.backend.resume()
        loop.run_once(0)

    assert taken == b"ls -l\r\x03"


@pytest.mark.parametrize(("key", "code"), [("c", 3), ("D", 4), ("[", 27), ("\\", 28), ("@", 0), ("?", 127)])
def test_control_keys_have_their_codes(guest: Printed, key: str, code: int) -> None:
    taken: list[bytes] = []
    with Loop() as loop:
        guest.console.backend.attach(loop, taken.append, lambda: 16 - len(taken) * 16)
        guest.console.control(key)
        loop.run_once(0)

    assert taken == [bytes((code,))]


@pytest.mark.parametrize("key", ["", "cc", "1", "é"])
def test_control_of_what_is_no_such_key_is_refused(guest: Printed, key: str) -> None:
    with pytest.raises(ConfigError, match="no key with Ctrl"):
        guest.console.control(key)


def test_async_forms_wait_on_the_callers_loop(guest: Printed) -> None:
    async def conversation() -> list[object]:
        found = asyncio.ensure_future(guest.console.expect_async("ready", LIMIT))
        others = asyncio.gather(
            guest.console.settle_async(0.1, LIMIT),
            guest.console.expect_async("never printed", LIMIT),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        threading.Thread(target=guest.prints, args=(b"ready",)).start()
        match = await found
        threading.Thread(target=guest.ends).start()
        return [match, *await others]

    match, _, error = asyncio.run(conversation())

    assert isinstance(match, re.Match)
    assert isinstance(error, GuestEnded)


def test_async_form_that_is_cancelled_leaves_nothing_behind(guest: Printed) -> None:
    async def cancelled() -> None:
        task = asyncio.ensure_future(guest.console.expect_async("x"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())

    assert not guest.watch._tasks
    guest.prints(b"x")
    assert guest.console.expect("x", LIMIT)


def test_async_form_times_out(guest: Printed) -> None:
    with pytest.raises(GuestTimeout) as caught:
        asyncio.run(guest.console.expect_async("x", 0.05))
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", [r"\w+@\w+", rb"\w+@\w+", r"[a-z]+\$ "])
def test_output_that_makes_a_search_slow_delays_neither_the_deadline_nor_who_prints(
    guest: Printed, pattern: str | bytes
) -> None:
    guest.prints(b"a" * 200_000)
    slowest = 0.0
    over = threading.Event()

    def printing() -> None:
        nonlocal slowest
        while not over.wait(0.02):
            begun = time.monotonic()
            guest.prints(b"a")
            slowest = max(slowest, time.monotonic() - begun)

    printer = threading.Thread(target=printing)
    printer.start()
    begun = time.monotonic()
    try:
        with pytest.raises(GuestTimeout):
            guest.console.expect(pattern, 0.5)
    finally:
        taken = time.monotonic() - begun
        over.set()
        printer.join(LIMIT)

    assert taken < 15
    assert slowest < 5


@pytest.mark.parametrize("before", [0, 1, MATCH_MAX - 9, MATCH_MAX, 2 * MATCH_MAX - 3, 5 * MATCH_MAX + 7])
@pytest.mark.parametrize("fill", ["-", "ß", "\udcff"])
def test_match_is_whole_wherever_it_lies_in_the_output(guest: Printed, before: int, fill: str) -> None:
    printed = fill * before + "<" + "x" * 4000 + "> rest"
    guest.prints(printed.encode(errors="surrogateescape"))

    match = guest.console.expect(r"<(\w+)", LIMIT)

    assert match[1] == "x" * 4000
    assert match.string[: match.start()] == fill * before
    assert guest.console.expect(rb"> (\w+)", LIMIT)[1] == b"rest"


def test_match_in_pieces_long_after_the_last_one_is_found(guest: Printed) -> None:
    waiter = threading.Thread(target=guest.console.expect, args=("^-*<x{4000}>$", LIMIT))
    late = threading.Thread(target=guest.console.expect, args=("<x{4000}>", LIMIT))
    late.start()
    guest.prints("ß".encode() * 3 * MATCH_MAX + b"<")
    for _ in range(8):
        guest.prints(b"x" * 500)
        time.sleep(0.02)  # so that looks come in between
    guest.prints(b">")
    late.join(LIMIT)
    assert not late.is_alive()

    guest.prints(b"<" + b"x" * 4000 + b">")
    waiter.start()
    waiter.join(LIMIT)
    assert not waiter.is_alive()


def test_beginning_of_a_pattern_is_that_of_the_output_only(guest: Printed) -> None:
    guest.prints(b"y" + b"x" * 3 * MATCH_MAX)

    with pytest.raises(GuestTimeout):
        guest.console.expect("^x", 0.1)


def test_two_threads_never_get_the_same_match(guest: Printed) -> None:
    found: list[str] = []

    def expect() -> None:
        found.extend(guest.console.expect(r"<\d+>", LIMIT)[0] for _ in range(50))

    threads = [threading.Thread(target=expect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(100):
        guest.prints(b"<%d> " % number)
    for thread in threads:
        thread.join(LIMIT)

    assert sorted(found) == sorted(f"<{number}>" for number in range(100))
