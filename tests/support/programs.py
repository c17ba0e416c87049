"""Real-mode guests of a few bytes, as ROMs, and machines made of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from pyvmm.config import Config
from pyvmm.machine.machine import Machine
from tests.support.firmware_guest import WATCHDOG, Transcript

COUNTER = 0x1000
#: inc dword [COUNTER]; jmp to it
COUNT = bytes.fromhex("66ff060010 ebf9")
#: mov dx, 0x501; xor al, al; out dx, al
PASS = bytes.fromhex("ba0105 30c0 ee")
#: sti; hlt; jmp to the hlt
HALT = bytes.fromhex("fb f4 ebfd")


def outb(port: int, *values: int) -> bytes:
    """mov dx, port; then mov al, value; out dx, al for each."""
    code = b"\xba" + struct.pack("<H", port)
    return code + b"".join(b"\xb0%c\xee" % value for value in values)


def inb(port: int) -> bytes:
    """mov dx, port; in al, dx"""
    return b"\xba" + struct.pack("<H", port) + b"\xec"


def string_io(opcode: int, port: int, address: int, count: int) -> bytes:
    """mov si and di, address; mov cx, count; mov dx, port; rep INS or OUTS (*opcode*), upwards."""
    return struct.pack(
        "<BHBHBHBHBBB", 0xBE, address, 0xBF, address, 0xB9, count, 0xBA, port, 0xFC, 0xF3, opcode
    )


OUTSB, OUTSW, INSB, INSW = 0x6E, 0x6F, 0x6C, 0x6D


def rom(tmp_path: Path, code: bytes) -> str:
    """The path of a ROM of one page whose reset vector jumps to *code*, at its start."""
    path = tmp_path / f"{abs(hash(code)):x}.bin"
    path.write_bytes(code.ljust(4080, b"\xf4") + b"\xe9\x0d\xf0".ljust(16, b"\0"))
    return str(path)


def machine(
    tmp_path: Path, code: bytes, console: Transcript | None = None, timeout: float = WATCHDOG, **keys: Any
) -> Machine:
    """A machine, not started, that runs *code* from reset."""
    keys.setdefault("memory", "2M")
    config = Config(firmware=rom(tmp_path, code), console="none", timeout=timeout, **keys)
    return Machine(config, console=console if console is not None else Transcript())


def multiboot(code: bytes, base: int = 0x100000) -> bytes:
    """A flat multiboot kernel: 32-bit *code* behind its header, loaded at *base*."""
    magic, flags = 0x1BADB002, 0x10000
    entry = base + 32
    header = (magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, entry + len(code), 0, entry)
    return struct.pack("<8I", *header) + code


def count(machine: Machine) -> int:
    """How far COUNT has come."""
    return int.from_bytes(machine.memory.read(COUNTER, 4), "little")
