"""``pyvmm.Guest`` with Debian's stock kernel: commands, console, life."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvmm
from tests.support.native import ARM64, CONSOLE

#: Seconds until a guest is ended, and until a test gives a wait up.
WATCHDOG = 240
LIMIT = 120
pytestmark = [pytest.mark.hw, pytest.mark.timeout(WATCHDOG + 30)]

QUIET = f"console={CONSOLE} quiet panic=-1"


@pytest.fixture(scope="module")
def guest() -> Iterator[pyvmm.Guest]:
    """A guest that the tests leave as they found it."""
    with pyvmm.Guest(memory="256M", cmdline=QUIET, timeout=20 * WATCHDOG) as guest:
        guest.wait_ready(LIMIT)
        yield guest


@pytest.fixture
def own() -> Iterator[pyvmm.Guest]:
    """A guest of the test's own."""
    with pyvmm.Guest(memory="256M", cmdline=QUIET, timeout=WATCHDOG) as guest:
        yield guest


# Commands


def test_text_goes_to_the_shell_and_a_list_is_a_program_with_its_arguments(guest: pyvmm.Guest) -> None:
    result = guest.run("echo $((6 * 7)); echo err >&2; exit 3")
    assert (result.status, result.stdout, result.stderr, result.signal) == (3, "42\n", "err\n", 0)
    assert not result.ok
    assert guest.run(["echo", "$HOME", "*", "two words"]).stdout == "$HOME * two words\n"


def test_input_environment_and_directory_reach_the_command(guest: pyvmm.Guest) -> None:
    result = guest.run("cat; echo $WORD; pwd", input="typed\n", env={"WORD": "from here"}, cwd="/proc")

    assert result.stdout == "typed\nfrom here\n/proc\n"


def test_bytes_go_in_and_come_out_unchanged(guest: pyvmm.Guest) -> None:
    data = os.urandom(3_000_000)

    result = guest.run(["cat"], input=data, text=False, timeout=LIMIT)

    assert (result.status, result.stderr) == (0, b"")
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_input_that_the_command_does_not_read_does_no_harm(guest: pyvmm.Guest) -> None:
    assert guest.run("exit 7", input=b"x" * 2_000_000, timeout=LIMIT).status == 7


def test_check_and_fails_raise_with_both_outputs_and_the_consoles_tail(guest: pyvmm.Guest) -> None:
    assert guest.check("echo fine").stdout == "fine\n"
    assert guest.fails("exit 9").status == 9
    with pytest.raises(pyvmm.CommandError) as caught:
        guest.check("echo out; echo err >&2; exit 5")
    assert caught.value.result.status == 5
    text = str(caught.value)
    assert text.startswith("echo out; echo err >&2; exit 5: status 5\n")
    for part in ("standard output:\nout", "standard error:\nerr", "the last lines of the guest's console:\n"):
        assert part in text
    assert "pyvmm guest ready" in text
    with pytest.raises(pyvmm.CommandError, match="status 0, and it was to fail"):
        guest.fails("true")


def test_command_that_a_signal_ends_tells_which(guest: pyvmm.Guest) -> None:
    result = guest.run("kill -TERM $$")

    assert (result.status, result.signal) == (128 + 15, 15)


def test_program_that_is_not_there_and_directory_that_is_not(guest: pyvmm.Guest) -> None:
    assert guest.run(["no-such-program"]).status == 127
    assert guest.run(["true"], cwd="/nowhere").status == 126


def test_timeout_kills_the_command_and_keeps_what_it_wrote(guest: pyvmm.Guest) -> None:
    with pytest.raises(pyvmm.GuestTimeout, match="not within 2 s") as caught:
        guest.run("echo $$; echo begun >&2; exec sleep 1000", timeout=2)

    assert caught.value.result is not None
    assert caught.value.result.stderr == "begun\n"
    guest.wait_until_fails(f"test -e /proc/{caught.value.result.stdout.strip()}", LIMIT)


def test_eight_commands_at_once_from_eight_threads(guest: pyvmm.Guest) -> None:
    results: dict[int, str] = {}
    # Each waits for all others: they cannot be one after the other.
    script = "touch /tmp/once.$N; until [ $(ls /tmp/once.* | wc -l) = 8 ]; do usleep 20000; done; cat"

    def run(number: int) -> None:
        done = guest.check(script, env={"N": str(number)}, input=f"{number}" * 50_000, timeout=LIMIT)
        results[number] = done.stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    guest.check("rm /tmp/once.*")

    assert results == {number: f"{number}" * 50_000 for number in range(8)}


def test_daemon_that_holds_stdout_does_not_hold_the_command(guest: pyvmm.Guest) -> None:
    result = guest.run("sleep 1000 & echo $!", timeout=LIMIT)

    assert guest.run(["kill", result.stdout.strip()]).status == 0


def test_spawned_command_is_written_to_read_from_and_waited_for(guest: pyvmm.Guest) -> None:
    with guest.spawn("echo ready >&2; while read line; do echo got $line; done; exit 4") as process:
        assert process.stderr.readline(LIMIT) == "ready\n"
        for word in ("one", "two"):
            process.stdin.write(f"{word}\n")
            assert process.stdout.readline(LIMIT) == f"got {word}\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(LIMIT) == 4
        assert process.stdout.read() == ""
    with pytest.raises(BrokenPipeError):
        process.stdin.write("more")


def test_spawned_command_is_read_by_lines_and_by_size(guest: pyvmm.Guest) -> None:
    with guest.spawn("seq 5; printf 'no newline'") as process:
        assert list(process.stdout) == ["1\n", "2\n", "3\n", "4\n", "5\n", "no newline"]
    with guest.spawn(["printf", "Grüße"], text=False) as process:
        assert process.stdout.read(3) == b"Gr\xc3"
        assert process.stdout.read() == b"\xbc\xc3\x9fe"
    with guest.spawn("printf 'Gr\\303'; sleep 0.2; printf '\\274\\303\\237e'") as process:
        assert process.stdout.read() == "Grüße"


def test_spawned_command_that_nobody_reads_waits_and_takes_no_memory_here(guest: pyvmm.Guest) -> None:
    with guest.spawn("head -c 3000000 /dev/zero; echo end >&2") as process:
        with pytest.raises(pyvmm.GuestTimeout):
            process.wait(1)
        assert process.stdout.read(timeout=LIMIT) == "\0" * 3_000_000
        assert process.stderr.read() == "end\n"
        assert process.wait(LIMIT) == 0


def test_signals_reach_a_spawned_command(guest: pyvmm.Guest) -> None:
    with guest.spawn("trap 'echo caught; exit 6' HUP; echo ready; while :; do sleep 0.05; done") as process:
        assert process.stdout.readline(LIMIT) == "ready\n"
        process.signal("HUP")
        assert process.wait(LIMIT) == 6
        assert process.stdout.read() == "caught\n"
    for end, number in ((pyvmm.Process.terminate, 15), (pyvmm.Process.kill, 9)):
        process = guest.spawn(["sleep", "1000"])
        end(process)
        assert process.wait(LIMIT) == 128 + number


def test_leaving_the_block_kills_a_spawned_command(guest: pyvmm.Guest) -> None:
    with guest.spawn("echo $$; exec sleep 1000") as process:
        pid = process.stdout.readline(LIMIT).strip()
    guest.wait_until_fails(f"test -e /proc/{pid}", LIMIT)


def test_wait_until_repeats_until_it_succeeds_or_fails(guest: pyvmm.Guest) -> None:
    guest.check("rm -f /tmp/late; (sleep 1; touch /tmp/late) >/dev/null 2>&1 &")
    guest.wait_until("test -e /tmp/late", LIMIT)
    guest.check("(sleep 0.5; rm /tmp/late) >/dev/null 2>&1 &")
    guest.wait_until_fails(["test", "-e", "/tmp/late"], LIMIT)
    with pytest.raises(pyvmm.GuestTimeout, match="false was to succeed: not within 1 s"):
        guest.wait_until("false", 1)


def test_wait_for_file_and_port(guest: pyvmm.Guest) -> None:
    with guest.spawn("sleep 0.5; touch /tmp/there; exec nc -l -p 4711"):
        guest.wait_for_file("/tmp/there", LIMIT)
        guest.wait_for_port(4711, LIMIT)
    guest.check(["rm", "/tmp/there"])
    with pytest.raises(pyvmm.GuestTimeout, match="a program was to listen on port 4712: not within 1 s"):
        guest.wait_for_port(4712, 1)


def test_async_forms_run_many_commands_on_the_callers_loop(guest: pyvmm.Guest) -> None:
    async def drive() -> list[object]:
        results = await asyncio.gather(
            *(guest.run_async(f"echo {n}", timeout=LIMIT) for n in range(4)),
            guest.run_async("sleep 1000", timeout=1),
            return_exceptions=True,
        )
        task = asyncio.ensure_future(guest.run_async("echo $$ >/tmp/cancelled; exec sleep 1000"))
        await guest.run_async("until test -s /tmp/cancelled; do usleep 20000; done", timeout=LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return results

    *results, late = asyncio.run(drive())

    assert [result.stdout for result in results if isinstance(result, pyvmm.Result)] == [
        "0\n",
        "1\n",
        "2\n",
        "3\n",
    ]
    assert isinstance(late, pyvmm.GuestTimeout)
    guest.wait_until_fails("test -e /proc/$(cat /tmp/cancelled)", LIMIT)


def test_paused_guest_answers_when_it_goes_on(guest: pyvmm.Guest) -> None:
    guest.pause()
    try:
        with pytest.raises(pyvmm.GuestTimeout):
            guest.run("true", timeout=0.5)
    finally:
        guest.resume()
    assert guest.run("echo on", timeout=LIMIT).stdout == "on\n"


# Console and life


def test_console_has_a_shell_that_is_typed_at(guest: pyvmm.Guest) -> None:
    guest.console.sendline()
    guest.console.expect("~ # ", LIMIT)
    guest.console.sendline("sleep 1234")
    # Before it runs the shell's line editor has the terminal, and Ctrl-C sends no signal.
    guest.wait_until("ps | grep -q '[s]leep 1234'", LIMIT)
    guest.console.control("c")
    guest.console.sendline("echo $((6*7))")
    guest.console.expect("42\r\n", LIMIT, never=["panic"])
    guest.console.expect("~ # ", LIMIT)
    mark = guest.console.mark()
    guest.check("echo from a command >/dev/kmsg; echo straight >/dev/console")
    guest.console.expect("straight", LIMIT)
    assert "straight" in guest.console.since(mark)


def test_flood_of_the_console_stops_neither_commands_nor_expect(guest: pyvmm.Guest) -> None:
    lines = 40 if ARM64 else 100
    with guest.spawn(f"seq {lines} >/dev/console; echo the last line >/dev/console") as flood:
        assert guest.run("echo meanwhile", timeout=LIMIT).stdout == "meanwhile\n"
        guest.console.expect("the last line", LIMIT)
        assert flood.wait(LIMIT) == 0
    assert f"{lines}\r\n" in guest.console.text


def test_poweroff_ends_the_guest_by_its_own_will(own: pyvmm.Guest) -> None:
    ending = own.poweroff(LIMIT)

    assert (ending.code, ending.reason, ending.known) == (0, "poweroff", "told"), ending
    with pytest.raises(pyvmm.GuestEnded, match="poweroff"):
        own.run("true")


def test_panic_ends_every_wait_at_once_with_the_consoles_last_lines(own: pyvmm.Guest) -> None:
    own.wait_ready(LIMIT)
    caught: list[Exception] = []
    ended: list[float] = []

    def wait(wait_for: object) -> None:
        try:
            wait_for()  # type: ignore[operator]
        except pyvmm.GuestEnded as error:
            caught.append(error)
            ended.append(time.monotonic())

    process = own.spawn(["sleep", "1000"])
    waits = [
        lambda: own.run("sleep 1000"),
        lambda: own.console.expect("never printed"),
        lambda: process.wait(),
        lambda: process.stdout.read(),
        lambda: own.wait_until("false"),
    ]
    threads = [threading.Thread(target=wait, args=(one,)) for one in waits]
    for thread in threads:
        thread.start()
    with pytest.raises(pyvmm.GuestEnded) as mine:
        own.run("echo c >/proc/sysrq-trigger; sleep 1000", timeout=LIMIT)
    ended.append(time.monotonic())
    for thread in threads:
        thread.join(LIMIT)

    assert len(caught) == len(waits)
    assert max(ended) - min(ended) < 5
    for error in (mine.value, *caught):
        assert isinstance(error, pyvmm.GuestEnded)
        assert error.ending is not None
        assert error.ending.reason == "panic"
        assert "Kernel panic - not syncing: sysrq triggered crash" in str(error).partition("console:\n")[2]


def test_reboot_builds_the_guest_anew_and_waits_until_it_runs_commands(own: pyvmm.Guest) -> None:
    own.check("echo here >/run/before", timeout=LIMIT)
    process = own.spawn(["sleep", "1000"])

    own.reboot(LIMIT)

    assert own.run("test -e /run/before", timeout=LIMIT).status == 1
    with pytest.raises(pyvmm.GuestEnded, match="reboot"):
        process.wait(LIMIT)
    assert own.console.text.count("pyvmm guest ready") == 2
    assert own.poweroff(LIMIT).reason == "poweroff"


def test_power_button_and_kill(own: pyvmm.Guest) -> None:
    own.wait_ready(LIMIT)
    own.power_button()
    assert own.wait(LIMIT).reason == "poweroff"


def test_kill_ends_a_guest_that_has_just_begun_to_boot(own: pyvmm.Guest) -> None:
    caught: list[Exception] = []

    def run() -> None:
        try:
            own.run("true")
        except pyvmm.GuestEnded as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert own.kill().reason == "stopped"
    thread.join(LIMIT)
    assert len(caught) == 1


def test_guest_with_its_own_init_has_console_and_life_and_says_why_no_commands(tmp_path: Path) -> None:
    with pyvmm.Guest(commands=False, cmdline=QUIET, timeout=WATCHDOG) as guest:
        with pytest.raises(pyvmm.NoCommandsError, match="commands=False"):
            guest.run("true")
        guest.console.expect("~ # ", LIMIT)
        guest.console.sendline("poweroff")
        assert guest.wait(LIMIT).reason == "poweroff"


def test_exec_server_that_is_killed_ends_its_commands_and_others_can_follow(guest: pyvmm.Guest) -> None:
    with pytest.raises(pyvmm.GuestEnded, match="began anew") as caught:
        guest.run("kill -9 $PPID; sleep 1000", timeout=LIMIT)
    assert caught.value.ending is None
    assert guest.run("echo again", timeout=LIMIT).stdout == "again\n"


def test_command_costs_little_more_than_a_local_one(guest: pyvmm.Guest) -> None:
    def seconds(action: Callable[[], object]) -> float:
        begun = time.monotonic()
        action()
        return time.monotonic() - begun

    # In turn, and the best of each: what else a machine does slows some of them down.
    pairs = [
        (
            seconds(lambda: guest.run(["true"], check=True)),
            seconds(lambda: subprocess.run(["true"], check=True)),
        )
        for _ in range(15)
    ]
    inside, local = map(min, zip(*pairs, strict=True))
    ratio = inside / local

    assert ratio < 5, f"{ratio:.1f} times as long"
