"""Runs the guest programs of this architecture on this machine's KVM, and collects what they say."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyvmm.arch import native
from pyvmm.backends.base import Detached
from pyvmm.board.device import Device
from pyvmm.board.space import DEVICE, MMIO, PORT
from pyvmm.config import Config
from pyvmm.guest.watch import Watch
from pyvmm.machine.ending import Ending
from pyvmm.machine.machine import Machine

_ARM64 = native.NAME == "arm64"
BIN = Path(__file__).resolve().parents[2] / "firmware" / ("arm64/bin" if _ARM64 else "x86_64/bin")
#: The code of a program that passed: it wrote 0 to the debug-exit port.
PASSED = 32
#: Seconds a program gets before the watchdog ends it; it takes milliseconds on an idle host, up to ten
#: seconds on an emulated arm64 one.
WATCHDOG = 60.0 if _ARM64 else 30.0
#: Where the parameters of a program lie; negative from its end.
PARAMETERS = 16 if _ARM64 else -48
MEMORY = "64M" if _ARM64 else "16M"


class Transcript(Detached):
    """A console that keeps all the guest says, and answers when it has said something."""

    def __init__(self, answers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__()
        self.data = b""
        self._answers = list(answers)
        self._watch = Watch()
        self.observe(self._record)

    def _record(self, data: bytes) -> None:
        with self._watch.condition:
            self.data += data
        self._watch.changed()
        while self._answers and self._answers[0][0] in self.data:
            self.send(self._answers.pop(0)[1])

    def wait_for(self, text: bytes, limit: float = WATCHDOG) -> None:
        assert self._watch.wait(lambda: text in self.data, limit), self.data

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


class MemoryLike(Device):
    """Registers that keep what is written, and a list of the writes."""

    name = "memory-like registers"

    def __init__(self, size: int) -> None:
        self.cells = bytearray(size)
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.cells[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.cells[offset : offset + size] = value.to_bytes(size, "little")
        self.writes.append((offset, size, value))


class Guest:
    """A machine made of one guest program, its console a Transcript."""

    def __init__(self, machine: Machine, console: Transcript) -> None:
        self.machine = machine
        self.console = console

    def add(self, space: int, base: int, size: int) -> MemoryLike:
        """Memory-like registers at *base* of *space*, before the start."""
        device = MemoryLike(size)
        window = self.machine.board.place(space, base, size, device.name, DEVICE)
        {MMIO: self.machine.mmio, PORT: self.machine.ports}[space].attach(window, device)
        return device

    def at_end(self, look: Callable[[], None]) -> None:
        """Call *look* when the guest has ended and its memory is still there."""
        self.machine.at_end(look)

    def run(self) -> Ending:
        self.machine.start()
        return self.machine.wait()


def guest(
    tmp_path: Path,
    name: str,
    *parameters: int,
    console: Transcript | None = None,
    memory: Any = MEMORY,
    timeout: float = WATCHDOG,
    **keys: Any,
) -> Guest:
    """A machine, not started, of the program *name* with *parameters* patched in."""
    path = BIN / name
    if parameters:
        program = bytearray(path.read_bytes())
        struct.pack_into(f"<{len(parameters)}Q", program, PARAMETERS, *parameters)
        path = tmp_path / name
        path.write_bytes(program)
    if console is None:
        console = Transcript()
    keys.setdefault("firmware", str(path))
    config = Config(memory=memory, timeout=timeout, console="none", **keys)
    return Guest(Machine(config, console=console), console)


def passes(guest: Guest, last_line: str) -> None:
    """Run *guest* and assert that it passed, *last_line* the last line of its output."""
    ending = guest.run()
    assert guest.console.text.endswith(f"{last_line}\n"), f"{guest.console.text!r}, then {ending}"
    assert (ending.code, ending.reason, ending.known) == (PASSED, "debug-exit", "told"), ending
