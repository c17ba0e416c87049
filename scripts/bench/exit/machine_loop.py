"""What one port write costs in a Machine: io_loop.bin, its port a device in Python.

Usage: ``machine_loop.py ROM WRITES [ROUNDS]``, with pyvmm importable. Prints one line a round:
nanoseconds per exit. The same guest and the same work in the device as in peers/bare_loop.py.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import time

from pyvmm.backends.base import CharBackend
from pyvmm.board.device import Device
from pyvmm.board.space import DEVICE, PORT
from pyvmm.config import Config
from pyvmm.machine.machine import Machine

PARAMETERS = 48
IO_PORT = 0x80
DEBUG_EXIT = 0x501


class Port(Device):
    """The device whose writes are counted."""

    name = "benchmark port"

    def __init__(self) -> None:
        self.last = 0
        self.writes = 0
        self.begin = 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.last = value
        self.writes += 1

    def write_many(self, offset: int, data: bytes) -> None:
        # The machine's first access goes this way, the others come to `write`.
        super().write_many(offset, data)
        self.begin = time.perf_counter_ns()


class End(Device):
    """Takes the time at the guest's last write, and ends the machine."""

    name = "benchmark end"
    machine: Machine
    at = 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.at = time.perf_counter_ns()
        self.machine.stop()

    def write_many(self, offset: int, data: bytes) -> None:
        self.write(offset, 1, data[0])


def one_round(rom: str, writes: int) -> float:
    config = Config(firmware=rom, memory="16M", console="none", debug_exit=False, timeout=60)
    port, end = Port(), End()
    with Machine(config, console=CharBackend()) as machine:
        end.machine = machine
        for base, device in ((IO_PORT, port), (DEBUG_EXIT, end)):
            machine.ports.attach(machine.board.place(PORT, base, 1, device.name, DEVICE), device)
        ending = machine.run()
    if port.writes != writes or not end.at:
        sys.exit(f"{port.writes} writes arrived, then {ending.reason}: {ending.detail}")
    return (end.at - port.begin) / writes


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: machine_loop.py ROM WRITES [ROUNDS]")
    writes = int(sys.argv[2], 0)
    with open(sys.argv[1], "rb") as file:
        rom = bytearray(file.read())
    struct.pack_into("<QQ", rom, len(rom) - PARAMETERS, writes, IO_PORT)
    with tempfile.NamedTemporaryFile(suffix=".bin") as patched:
        patched.write(rom)
        patched.flush()
        for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1):
            print(f"{one_round(patched.name, writes):.1f}", flush=True)


if __name__ == "__main__":
    main()
