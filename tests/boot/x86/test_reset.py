from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.boot.x86 import lowmem
from pyvmm.boot.x86.mptable import build_mp_table
from pyvmm.boot.x86.reset import reset_code, write_reset_code
from pyvmm.pykvm import Kvm
from tests.support.images import MIB, ram
from tests.support.real_mode import RealMode

KVM_EXIT_IO, KVM_EXIT_HLT = 2, 5
OUT = 1


@pytest.fixture
def guest() -> Iterator[RealMode]:
    with Kvm() as kvm:
        made = RealMode(kvm, reset_code(0x602, 0x5A))
        yield made
        made.close()


@pytest.mark.kvm
def test_reset_code_when_run_writes_the_value_to_the_port_once_and_halts(guest: RealMode) -> None:
    assert guest.run() == KVM_EXIT_IO
    assert guest.io() == (OUT, 0x602, 1, b"\x5a")

    assert guest.run() == KVM_EXIT_HLT
    assert guest.run() == KVM_EXIT_HLT, "a halt that an interrupt ends is entered again"


def test_write_reset_code_when_called_puts_it_where_f000_fff0_is() -> None:
    with ram(2 * MIB) as memory:
        write_reset_code(memory, 0x602, 1)

        code = memory.read(0xF000 * 16 + 0xFFF0, 16)

    assert code.startswith(reset_code(0x602, 1))


def test_reset_entry_when_the_mp_table_is_the_largest_is_clear_of_it() -> None:
    assert lowmem.MP_TABLE_LARGE + len(build_mp_table(254)) <= lowmem.MP_TABLE_LARGE_END <= lowmem.RESET_ENTRY
    assert lowmem.RESET_ENTRY + len(reset_code(0xFFFF, 0xFF)) <= lowmem.HIGH_MEMORY
