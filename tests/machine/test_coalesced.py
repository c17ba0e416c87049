"""The ring of queued port writes: order, bursts, who drains it, devices that fail."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import cast

import pytest

from pyvmm.board.bus import Bus
from pyvmm.board.device import Device
from pyvmm.board.space import DEVICE, PORT, Window
from pyvmm.machine.coalesced import CAPACITY, IDLE_TICK, PAGE, PATIENCE, TICK, CoalescedRing
from pyvmm.pykvm import Vcpu
from tests.support import programs
from tests.support.firmware_guest import PASSED, Transcript

LIMIT = 20.0


class RunPages:
    """The run mapping of a vCPU: the ring lies in its page 1."""

    def __init__(self) -> None:
        self.run8 = memoryview(bytearray(2 * PAGE))
        self.run32 = self.run8.cast("I")
        self.run64 = self.run8.cast("Q")

    def queue(self, address: int, data: bytes) -> None:
        """What KVM does (virt/kvm/coalesced_mmio.c): False when the ring is full."""
        last = self.run32[PAGE // 4 + 1]
        at = PAGE + 8 + 24 * last
        self.run8[at : at + 24] = struct.pack("<QII8s", address, len(data), 1, data)
        self.run32[PAGE // 4 + 1] = (last + 1) % CAPACITY

    @property
    def empty(self) -> bool:
        return self.run32[PAGE // 4] == self.run32[PAGE // 4 + 1]


class Recorder(Device):
    name = "recorder"

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []
        self.bursts: list[bytes] = []

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))

    def write_many(self, offset: int, data: bytes) -> None:
        self.bursts.append(data)
        super().write_many(offset, data)


class Setup:
    def __init__(self, device: Device | None = None) -> None:
        self.device = device if device is not None else Recorder()
        self.pages = RunPages()
        bus = Bus(PORT)
        bus.attach(Window(PORT, 0x100, 8, "recorder", DEVICE), self.device)
        self.failures: list[tuple[str, Exception]] = []
        self.bus = bus
        self.ring = CoalescedRing(
            cast(Vcpu, self.pages), 1, bus, lambda name, error: self.failures.append((name, error))
        )


def test_drain_when_empty_does_nothing() -> None:
    setup = Setup(device := Recorder())

    setup.ring.drain()

    assert device.writes == []


def test_tick_when_nothing_comes_slows_down_and_when_something_does_is_fast_again() -> None:
    setup = Setup(device := Recorder())
    setup.pages.queue(0x100, b"a")

    assert setup.ring.tick() == TICK
    assert [setup.ring.tick() for _ in range(PATIENCE + 1)][-2:] == [TICK, IDLE_TICK]
    setup.pages.queue(0x100, b"b")
    assert setup.ring.tick() == TICK
    assert [value for _, _, value in device.writes] == [*b"ab"]


def test_tick_when_others_drain_what_comes_stays_fast() -> None:
    setup = Setup(Recorder())
    for _ in range(3 * PATIENCE):
        setup.pages.queue(0x100, b"a")
        setup.ring.drain()

        assert setup.ring.tick() == TICK


def test_drain_when_writes_wait_carries_them_out_in_order() -> None:
    setup = Setup(device := Recorder())
    for address, data in ((0x101, b"a"), (0x102, b"bc"), (0x104, b"defg"), (0x101, b"h"), (0x100, b"i")):
        setup.pages.queue(address, data)

    setup.ring.drain()

    assert device.writes == [
        (1, 1, 0x61),
        (2, 2, 0x6362),
        (4, 4, 0x67666564),
        (1, 1, 0x68),
        (0, 1, 0x69),
    ]
    assert setup.pages.empty


def test_drain_when_a_burst_wraps_around_gives_it_at_once() -> None:
    setup = Setup(device := Recorder())
    for _ in range(CAPACITY - 5):
        setup.pages.queue(0x101, b".")
    setup.ring.drain()
    device.bursts.clear()
    for byte in b"0123456789":
        setup.pages.queue(0x100, bytes([byte]))

    setup.ring.drain()

    assert device.bursts == [b"0123456789"]


def test_drain_when_a_burst_is_of_words_gives_it_at_once() -> None:
    class Words(Recorder):
        def write_burst(self, offset: int, size: int, values: list[int]) -> None:
            self.bursts.append(bytes(values))
            super().write_burst(offset, size, values)

    setup = Setup(device := Words())
    for word in (b"a\0\0\0", b"b\0\0\0", b"c\0"):
        setup.pages.queue(0x100, word)

    setup.ring.drain()

    assert device.bursts == [b"ab", b"c"]
    assert device.writes == [(0, 4, 97), (0, 4, 98), (0, 2, 99)]


def test_drain_when_nobody_claims_the_port_counts() -> None:
    setup = Setup()
    setup.pages.queue(0x200, b"x")

    setup.ring.drain()

    assert setup.bus.unclaimed_writes == 1
    assert setup.failures == []


def test_drain_when_the_device_raises_tells_its_name_and_goes_on() -> None:
    class Failing(Recorder):
        def write_many(self, offset: int, data: bytes) -> None:
            if data == b"!":
                raise ValueError("no")
            super().write_many(offset, data)

    setup = Setup(device := Failing())
    setup.pages.queue(0x100, b"!")
    setup.pages.queue(0x101, b"a")

    setup.ring.drain()

    assert [(name, str(error)) for name, error in setup.failures] == [("recorder", "no")]
    assert device.writes == [(1, 1, 0x61)]
    assert setup.pages.empty


def test_ring_when_another_thread_is_at_it_is_not_empty_before_the_device_is_done() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Recorder):
        def write_many(self, offset: int, data: bytes) -> None:
            begun.set()
            assert go_on.wait(LIMIT)
            super().write_many(offset, data)

    setup = Setup(device := Slow())
    setup.pages.queue(0x100, b"a")
    ticker = threading.Thread(target=setup.ring.drain, daemon=True)
    ticker.start()
    assert begun.wait(LIMIT)

    # A vCPU looks at this moment: were the ring empty, its next write would overtake.
    ends = setup.ring.words[setup.ring.index]
    go_on.set()

    assert ends >> 32 != ends & 0xFFFF_FFFF
    ticker.join(LIMIT)
    assert device.writes == [(0, 1, 0x61)] and setup.pages.empty


@pytest.mark.kvm
def test_console_when_written_byte_by_byte_has_all_in_order(tmp_path: Path) -> None:
    # mov cx, 4096; out dx, al; inc al; loop to the out
    code = b"\xba\xf8\x03" + bytes.fromhex("30c0 b90010 ee fec0 e2fb") + programs.PASS
    console = Transcript()

    ending = programs.machine(tmp_path, code, console).run()

    assert ending.code == PASSED
    assert console.data == bytes(range(256)) * 16


@pytest.mark.kvm
def test_console_when_the_guest_writes_and_halts_has_it_all_the_same(tmp_path: Path) -> None:
    console = Transcript()
    with programs.machine(tmp_path, programs.outb(0x3F8, *b"zzz") + programs.HALT, console) as machine:
        machine.start()

        console.wait_for(b"zzz", 5.0)

        assert machine.ending is None


@pytest.mark.kvm
def test_divisor_latch_when_written_after_text_gets_nothing_of_it(tmp_path: Path) -> None:
    # Text, then LCR = 0x80 (DLAB), DLL = 1, LCR = 3, text again: all through one port.
    line = programs.outb(0x3F8, *b"ab") + programs.outb(0x3FB, 0x80) + programs.outb(0x3F8, 1)
    line += programs.outb(0x3FB, 3) + programs.outb(0x3F8, *b"cd\n")
    code = b"\xbd\xc8\x00" + line + bytes.fromhex("4d 7403 e9")  # mov bp, 200; ...; dec bp; jz +3; jmp
    code += struct.pack("<h", -(len(line) + 6)) + programs.PASS
    console = Transcript()

    ending = programs.machine(tmp_path, code, console).run()

    assert ending.code == PASSED
    assert console.data == b"abcd\n" * 200
