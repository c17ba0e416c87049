"""A guest has its name from its start to its end, and no other process waits for one that is not started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.guest import registry
from pyvmm.guest.guest import Guest
from tests.support.command import complains, environment, pyvmm, read_until
from tests.support.firmware_guest import BIN, WATCHDOG

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

LIMIT = WATCHDOG
ECHO = str(BIN / "echo.bin")

#: Makes a guest, and tries to start it at every line of its input.
PROGRAM = f"""
import sys, pyvmm
guest = pyvmm.Guest(firmware={ECHO!r}, name="web", timeout={WATCHDOG})
print("made", flush=True)
for line in sys.stdin:
    try:
        guest.start()
        print("started", guest.name, flush=True)
    except pyvmm.ConfigError as error:
        print("refused:", error, flush=True)
guest.close()
print("closed", flush=True)
"""


class Maker:
    """Another process, which has made the guest ``web`` and not started it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        read_until(self.process.stdout, b"made\n")

    def start(self) -> str:
        """What came of the start of the guest."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return read_until(self.process.stdout, b"\n").decode()

    def close(self) -> bytes:
        """The rest of what it prints."""
        try:
            return self.process.communicate(timeout=LIMIT)[0]
        finally:
            self.process.kill()


@pytest.fixture
def maker() -> Iterator[Maker]:
    maker = Maker()
    yield maker
    if maker.process.returncode is None:
        maker.close()


def test_guest_that_is_not_started_is_no_running_guest_for_others(maker: Maker) -> None:
    assert b"web" not in pyvmm("ps").stdout
    complains(pyvmm("exec", "web", "--", "true"), 65, "there is no running guest 'web'")

    assert maker.start() == "started web\n"

    assert b"web" in pyvmm("ps").stdout
    complains(pyvmm("exec", "web", "--", "true"), 64, "boots firmware")
    assert maker.close() == b"closed\n"
    assert registry.names() == []


def test_start_under_a_name_that_was_taken_meanwhile_is_refused_until_it_is_free(maker: Maker) -> None:
    with Guest(firmware=ECHO, name="web", timeout=WATCHDOG) as guest:
        guest.console.expect("ready", LIMIT)
        assert "refused: name: 'web' is that of a running guest, process" in maker.start()
        assert guest.state == "running"

    assert maker.start() == "started web\n"


def test_block_whose_guest_cannot_have_its_name_releases_it() -> None:
    late = Guest(firmware=ECHO, name="web", timeout=WATCHDOG, in_process=True)
    with Guest(firmware=ECHO, name="web", timeout=WATCHDOG), pytest.raises(registry.NameTakenError), late:
        raise AssertionError("the block is not entered")

    assert late.state == "ended: stopped"
    with pytest.raises(PyvmmError, match="is closed"):
        late.machine.vm.check_extension(0)
