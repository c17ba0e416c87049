"""A guest's life with firmware on this machine's KVM: what needs no Linux."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

import pyvmm
from pyvmm.errors import ConfigError
from pyvmm.guest.errors import GuestEnded, console_lines, outputs
from pyvmm.guest.guest import Guest
from pyvmm.guest.result import Result
from pyvmm.machine.ending import Ending
from tests.support.command import until
from tests.support.firmware_guest import BIN, PASSED, WATCHDOG

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

LIMIT = WATCHDOG


def firmware(name: str, **keys: object) -> Guest:
    return Guest(firmware=str(BIN / f"{name}.bin"), **{"timeout": WATCHDOG, **keys})


def test_guest_runs_to_its_end_and_its_console_is_kept() -> None:
    with firmware("exit") as guest:
        ending = guest.wait(LIMIT)

    assert ending.code == PASSED
    assert guest.ending is ending
    assert guest.state == "ended: debug-exit"


def test_guest_is_a_public_name() -> None:
    assert pyvmm.Guest is Guest
    assert issubclass(pyvmm.GuestTimeout, TimeoutError)


def test_conversation_over_the_console() -> None:
    with firmware("echo") as guest:
        guest.console.expect(rb"ready\n", LIMIT)
        guest.console.send("hello")
        guest.console.expect("hello", LIMIT)
        guest.console.control("d")
        guest.console.expect("ok echo", LIMIT)
        assert guest.wait(LIMIT).code == PASSED


def test_kill_ends_a_guest_that_hangs_and_everybody_who_waits_for_it() -> None:
    caught: list[Exception] = []

    def wait() -> None:
        try:
            guest.console.expect("never printed")
        except pyvmm.GuestEnded as error:
            caught.append(error)

    with firmware("spin") as guest:
        waiters = [threading.Thread(target=wait) for _ in range(4)]
        for waiter in waiters:
            waiter.start()
        with pytest.raises(pyvmm.GuestTimeout, match=r"the guest was to end: not within 0\.1 s"):
            guest.wait(0.1)
        ending = guest.kill()
        for waiter in waiters:
            waiter.join(LIMIT)

    assert (ending.code, ending.reason) == (3, "stopped")
    assert len(caught) == 4


def test_timeout_of_the_configuration_ends_who_waits() -> None:
    with firmware("spin", timeout=0.3) as guest, pytest.raises(pyvmm.GuestEnded, match="timeout") as caught:
        guest.console.expect("never printed", LIMIT)
    assert "spinning" in str(caught.value)


def test_pause_stops_the_guest_and_resume_lets_it_go_on() -> None:
    with firmware("echo") as guest:
        guest.console.expect("ready", LIMIT)
        guest.pause()
        mark = guest.console.mark()
        guest.console.send("x")
        with pytest.raises(pyvmm.GuestTimeout):
            guest.console.expect("x", 0.2)
        assert guest.console.since(mark) == ""
        guest.resume()
        guest.console.expect("x", LIMIT)


def test_reboot_with_restart_asked_for_builds_the_machine_anew_until_the_timeout() -> None:
    with firmware(
        "reset_i8042" if (BIN / "reset_i8042.bin").exists() else "reset", on_reboot="restart", timeout=2
    ) as guest:
        ending = guest.wait(LIMIT)

    assert ending.reason == "timeout"
    assert guest.boots > 1


def test_reboot_without_that_is_the_end() -> None:
    with firmware("reset_i8042" if (BIN / "reset_i8042.bin").exists() else "reset") as guest:
        assert guest.wait(LIMIT).reason == "reboot"


def test_firmware_and_kernels_without_our_init_say_why_there_are_no_commands() -> None:
    with firmware("spin") as guest:
        for use in (guest.run, guest.check, guest.spawn, guest.wait_until):
            with pytest.raises(pyvmm.NoCommandsError, match="boots firmware"):
                use("true")
        with pytest.raises(pyvmm.NoCommandsError):
            guest.reboot()


@pytest.mark.skipif(not (BIN / "multiboot2.elf").exists(), reason="multiboot is x86's")
@pytest.mark.parametrize("name", ["multiboot1", "multiboot2"])
def test_multiboot_kernel_boots_and_runs_no_commands(name: str) -> None:
    with Guest(kernel=str(BIN / f"{name}.elf"), memory="32M", timeout=WATCHDOG) as guest:
        with pytest.raises(pyvmm.NoCommandsError, match="multiboot"):
            guest.run("true")
        assert guest.wait(LIMIT).code == PASSED
        assert "module" not in guest.console.text  # no initramfs of ours was slipped to it


def test_async_forms(tmp_path: Path) -> None:
    async def drive() -> int:
        with firmware("echo") as guest:
            await guest.console.expect_async("ready", LIMIT)
            guest.console.control("d")
            return (await guest.wait_async(LIMIT)).code

    assert asyncio.run(drive()) == PASSED


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"exec": "true", "kernel": "x"}, "leave exec out"),
        ({"console": "pty", "firmware": "x"}, "console itself"),
        ({"memory": "much"}, "memory"),
    ],
)
def test_configuration_that_makes_no_sense_for_a_guest_is_refused(
    keys: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Guest(**keys)


def test_config_object_and_board_file_are_taken_with_keywords_that_win(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text(f'firmware = "{BIN / "spin.bin"}"\nmemory = "32M"\nname = "board"\n')
    config = pyvmm.Config(firmware=str(BIN / "spin.bin"), memory="32M", console="none")

    for given in (board, str(board), config):
        guest = Guest(given, memory="64M")
        try:
            assert guest.config.memory_size == 64 << 20
            assert guest.config.firmware == str(BIN / "spin.bin")
        finally:
            guest.close()


def test_guest_that_was_never_started_is_closed_and_says_so() -> None:
    guest = firmware("exit")
    with pytest.raises(ConfigError, match="not started"):
        guest.wait()
    guest.close()
    guest.close()
    with pytest.raises(pyvmm.PyvmmError, match="started once"):
        guest.start()


def test_twenty_guests_at_once() -> None:
    begun = time.monotonic()
    guests = [firmware("echo") for _ in range(20)]
    try:
        for guest in guests:
            guest.start()
        for guest in guests:
            guest.console.expect("ready", LIMIT)
            guest.console.control("d")
        assert [guest.wait(LIMIT).code for guest in guests] == [PASSED] * 20
    finally:
        for guest in guests:
            guest.close()
    assert time.monotonic() - begun < LIMIT


def test_close_during_restarts_ends_the_guest() -> None:
    guest = firmware("reset_i8042" if (BIN / "reset_i8042.bin").exists() else "reset", on_reboot="restart")
    guest.start()
    until(lambda: guest.boots >= 3, LIMIT)
    guest.close()

    assert guest.ending is not None


def test_guest_with_a_name_runs_without_a_place_for_sockets(
    runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.write_text("in the way")

    with Guest(firmware=str(BIN / "exit.bin"), name="web", timeout=WATCHDOG) as guest:
        assert guest.name == "web"
        assert guest.wait(LIMIT).code == PASSED
    assert "no other process can reach guest 'web'" in caplog.text


def test_guest_without_a_name_runs_where_names_cannot_be_locked(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    (runtime / "lock").symlink_to("elsewhere")

    with firmware("exit") as guest:
        assert guest.wait(LIMIT).code == PASSED


def test_console_in_a_message_cannot_drive_the_terminal() -> None:
    text = console_lines("\x1b]0;title\x07one\r\n  indented \x1b[2J\u202e\n")

    assert text.splitlines()[2:] == [r"\x1b]0;title\x07one", r"  indented \x1b[2J\u202e"]


def numbered(first: int, count: int) -> list[str]:
    return [f"[ {number}.000000]  ? trace" for number in range(first, first + count)]


PANIC = "[ 99.000000] Kernel panic - not syncing: sysrq triggered crash"


@pytest.mark.parametrize("after", [0, 19, 20, 24, 25, 54])
def test_message_about_a_panic_begins_before_the_panics_line(after: int) -> None:
    before, trace = numbered(0, 40), numbered(100, after)

    shown = panic_message([*before, PANIC, *trace])

    assert shown == [*before[-max(5, 24 - after) :], PANIC, *trace]


def test_message_about_a_panic_far_back_has_its_line_and_the_last_ones() -> None:
    before, trace = numbered(0, 40), numbered(100, 120)

    shown = panic_message([*before, PANIC, *trace])

    assert shown == [*before[-5:], PANIC, *trace[:29], "... (66 lines)", *trace[-25:]]


def test_message_about_a_panic_that_is_no_longer_kept_has_the_last_lines() -> None:
    assert panic_message(numbered(0, 100)) == numbered(75, 25)


def test_message_about_another_ending_has_the_last_lines_whatever_they_say() -> None:
    ending = Ending(0, "poweroff", "told")

    error = GuestEnded("true", ending, "\n".join([PANIC, *numbered(0, 30)]))

    assert str(error).splitlines()[2:] == numbered(5, 25)


def panic_message(lines: list[str]) -> list[str]:
    """The console's lines in the message about a panic when the console shows *lines*."""
    ending = Ending(7, "panic", "inferred", "the guest's console says: Kernel panic")
    first, header, *shown = str(GuestEnded("true", ending, "\r\n".join([*lines, ""]))).splitlines()
    assert first == "true: the guest has ended: panic: the guest's console says: Kernel panic (inferred)"
    assert header == "the last lines of the guest's console:"
    return shown


def test_outputs_in_a_message_cannot_drive_the_terminal() -> None:
    result = Result(1, b"\x1b[31mred\nnext\n", "\x9b2J")

    assert outputs(result) == "\nstandard output:\n\\x1b[31mred\nnext\nstandard error:\n\\x9b2J"
