"""Guests that leave KVM_RUN by ports and memory-mapped I/O."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from pyvmm.pykvm.const import (
    KVM_EXIT_HLT,
    KVM_EXIT_IO,
    KVM_EXIT_IO_IN,
    KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO,
)
from tests.support.real_mode import CODE, DATA, HLT, NOWHERE, RealMode, inp, load, out, put, store, word

pytestmark = pytest.mark.kvm
Guest = Callable[..., RealMode]


@pytest.mark.parametrize(("size", "value"), [(1, 0x41), (2, 0x4142), (4, 0x4142_4344)])
def test_run_when_guest_writes_a_port_gives_port_and_value(guest: Guest, size: int, value: int) -> None:
    machine = guest(out(0x3F8, value, size) + HLT)

    assert machine.run() == KVM_EXIT_IO
    assert machine.io() == (KVM_EXIT_IO_OUT, 0x3F8, 1, word(value, size))
    assert machine.run() == KVM_EXIT_HLT


def test_views_when_guest_writes_a_port_agree_with_the_structure(guest: Guest) -> None:
    machine = guest(out(0x1234, 0x99, 4) + HLT)
    vcpu = machine.vcpu

    machine.run()

    assert vcpu.run32[2] == vcpu.run.exit_reason == KVM_EXIT_IO
    assert struct.pack("=Q", vcpu.run64[4]) == struct.pack("=BBHI", KVM_EXIT_IO_OUT, 4, 0x1234, 1)
    assert vcpu.run32[vcpu.run64[5] // 4] == 0x99
    assert vcpu.run16[vcpu.run64[5] // 2] == 0x99


@pytest.mark.parametrize(("size", "value"), [(1, 0x5A), (2, 0x5A5B), (4, 0x5A5B_5C5D)])
def test_run_when_guest_reads_a_port_takes_the_answer(guest: Guest, size: int, value: int) -> None:
    machine = guest(inp(0x60, size) + store(DATA, size) + HLT)

    assert machine.run() == KVM_EXIT_IO
    assert machine.io()[:3] == (KVM_EXIT_IO_IN, 0x60, 1)
    machine.answer(word(value, size))

    assert machine.run() == KVM_EXIT_HLT
    assert machine.memory[DATA : DATA + 8] == word(value, 8)


def test_run_when_guest_writes_a_string_to_a_port_gives_every_byte_in_order(guest: Guest) -> None:
    text = b"hello, port"
    # mov si, DATA; mov cx, n; mov dx, 0x3f8; cld; rep outsb
    code = b"\xbe" + word(DATA) + b"\xb9" + word(len(text)) + b"\xba\xf8\x03" + b"\xfc\xf3\x6e" + HLT
    machine = guest(code)
    machine.memory[DATA : DATA + len(text)] = text
    seen = b""

    while machine.run() == KVM_EXIT_IO:
        seen += machine.io()[3]

    assert seen == text


@pytest.mark.parametrize("size", [1, 2, 4])
def test_run_when_guest_writes_where_nothing_is_gives_address_and_value(guest: Guest, size: int) -> None:
    # mov eax, 0x11223344
    machine = guest(b"\x66\xb8" + word(0x1122_3344, 4) + store(NOWHERE, size) + HLT)

    assert machine.run() == KVM_EXIT_MMIO

    mmio = machine.vcpu.run.mmio
    assert (mmio.phys_addr, mmio.len, mmio.is_write) == (NOWHERE, size, 1)
    assert bytes(mmio.data)[:size] == word(0x1122_3344, 4)[:size]


def test_run_when_guest_reads_where_nothing_is_takes_the_answer(guest: Guest) -> None:
    machine = guest(load(NOWHERE, 4) + store(DATA, 4) + HLT)

    assert machine.run() == KVM_EXIT_MMIO
    mmio = machine.vcpu.run.mmio
    assert (mmio.phys_addr, mmio.len, mmio.is_write) == (NOWHERE, 4, 0)
    mmio.data[:4] = word(0xCAFE_F00D, 4)

    assert machine.run() == KVM_EXIT_HLT
    assert machine.memory[DATA : DATA + 4] == word(0xCAFE_F00D, 4)


def test_run_raw_when_immediate_exit_is_set_says_eintr(guest: Guest) -> None:
    machine = guest(put(DATA, 1) + HLT)
    machine.vcpu.immediate_exit = 1

    assert machine.vcpu.run_raw() == -1
    assert machine.vcpu.last_errno() == errno.EINTR
    assert machine.memory[DATA] == 0
    machine.vcpu.immediate_exit = 0
    assert machine.run() == KVM_EXIT_HLT
    assert machine.memory[DATA] == 1


def test_translate_when_paging_is_off_gives_the_same_address(guest: Guest) -> None:
    machine = guest(HLT)

    found = machine.vcpu.translate(CODE)

    assert (found.valid, found.physical_address) == (1, CODE)
