"""Guest memory under real guests: seams, read-only regions, dirty pages, more RAM than the host has.

The guests run in real mode with all segments at 0, and end with HLT.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import PAGE_SIZE, Anonymous, FileBacked, HostMemory, Hugetlb, Memfd
from pyvmm.memory.layout import Part, assemble
from pyvmm.memory.slots import Slots
from pyvmm.pykvm import Kvm, Vm

pytestmark = pytest.mark.kvm

EXIT_HLT = 5
EXIT_MMIO = 6
M = 1 << 20
G = 1 << 30
GAP = (0xC000_0000, 0x1_0000_0000)
HLT = b"\xf4"


@pytest.fixture
def vm() -> Iterator[Vm]:
    with Kvm() as kvm, kvm.create_vm() as made:
        made.set_identity_map_addr(0xFEFF_C000)
        made.set_tss_addr(0xFEFF_D000)
        yield made


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A guest that does not end within 20 seconds fails its test.

    The alarm repeats, since one that comes just before KVM_RUN interrupts nothing.
    """

    def bark(number: int, frame: object) -> None:
        raise TimeoutError("the guest did not end")

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, 20, 0.5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def run_guest(vm: Vm, ip: int) -> list[tuple[int, bytes, bool]]:
    """Run from *ip* until HLT; the MMIO exits on the way: address, data, whether a write."""
    mmio: list[tuple[int, bytes, bool]] = []
    with vm.create_vcpu(0) as vcpu:
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags = ip, 2
        vcpu.set_regs(regs)
        while True:
            assert vcpu.run_raw() == 0, os.strerror(vcpu.last_errno())
            if vcpu.run.exit_reason == EXIT_HLT:
                return mmio
            assert vcpu.run.exit_reason == EXIT_MMIO
            exit_ = vcpu.run.mmio
            mmio.append((exit_.phys_addr, bytes(exit_.data[: exit_.len]), bool(exit_.is_write)))


def make_host(tmp_path: Path, kind: str) -> HostMemory:
    if kind == "file":
        path = tmp_path / "ram"
        path.write_bytes(bytes(2 * PAGE_SIZE))
        return FileBacked(path)
    return Memfd(2 * PAGE_SIZE) if kind == "memfd" else Anonymous(2 * PAGE_SIZE)


@pytest.mark.parametrize("second", ["anonymous", "memfd", "file"])
def test_guest_store_when_it_crosses_a_seam_reaches_both_objects(vm: Vm, tmp_path: Path, second: str) -> None:
    low, high = Anonymous(2 * PAGE_SIZE), make_host(tmp_path, second)
    memory = GuestMemory([Region(0, 2 * PAGE_SIZE, low), Region(0x2000, 2 * PAGE_SIZE, high)])
    code = (
        b"\x66\xc7\x06\xfe\x1f\x44\x33\x22\x11"  # mov dword [0x1ffe], 0x11223344
        b"\x66\xa1\xfe\x1f"  # mov eax, [0x1ffe]
        b"\x66\xa3\x01\x30" + HLT  # mov [0x3001], eax
    )
    memory.write(0x1000, code)
    Slots(vm, memory).install()

    exits = run_guest(vm, 0x1000)

    assert exits == []
    assert bytes(low.buffer[0x1FFE:]) == b"\x44\x33"
    assert bytes(high.buffer[:2]) == b"\x22\x11"
    assert memory.read_u32(0x1FFE) == memory.read_u32(0x3001) == 0x11223344
    vm.close()
    memory.close()


def test_guest_code_when_an_instruction_crosses_a_seam_is_run(vm: Vm) -> None:
    memory = GuestMemory(assemble([Part(2 * PAGE_SIZE), Part(2 * PAGE_SIZE, Memfd)], 0x10000, 0x20000))
    memory.write(0x1FFD, b"\xc7\x06\x00\x30\xcd\xab" + HLT)  # mov word [0x3000], 0xabcd
    Slots(vm, memory).install()

    run_guest(vm, 0x1FFD)

    assert memory.read_u16(0x3000) == 0xABCD
    vm.close()
    memory.close()


def test_guest_store_when_it_runs_through_three_objects_fills_all(vm: Vm) -> None:
    parts = [Part(4 * PAGE_SIZE), Part(PAGE_SIZE, Memfd), Part(4 * PAGE_SIZE)]
    memory = GuestMemory(assemble(parts, 0x10000, 0x20000))
    code = (
        b"\xbf\xff\x3f"  # mov di, 0x3fff
        b"\xb9\x02\x10"  # mov cx, 0x1002
        b"\xb0\x5a"  # mov al, 0x5a
        b"\xf3\xaa" + HLT  # rep stosb
    )
    memory.write(0x1000, code)
    Slots(vm, memory).install()

    run_guest(vm, 0x1000)

    assert memory.read(0x3FFE, 0x1004) == b"\0" + b"\x5a" * 0x1002 + b"\0"
    assert len(memory.views(0x3FFF, 0x1002)) == 3
    vm.close()
    memory.close()


@pytest.mark.parametrize("backing", ["anonymous", "file"])
def test_guest_store_when_readonly_arrives_as_mmio(vm: Vm, tmp_path: Path, backing: str) -> None:
    if backing == "file":
        path = tmp_path / "rom"
        path.write_bytes(b"\x77" * PAGE_SIZE)
        rom: HostMemory = FileBacked(path, readonly=True)
    else:
        rom = Anonymous(PAGE_SIZE)
        rom.buffer[:] = b"\x77" * PAGE_SIZE
    ram = Anonymous(4 * PAGE_SIZE)
    memory = GuestMemory([Region(0, 4 * PAGE_SIZE, ram), Region(0x8000, PAGE_SIZE, rom, readonly=True)])
    code = (
        b"\xc6\x06\x08\x80\x5a"  # mov byte [0x8008], 0x5a
        b"\xa0\x08\x80"  # mov al, [0x8008]
        b"\xa2\x00\x30" + HLT  # mov [0x3000], al
    )
    memory.write(0x1000, code)
    Slots(vm, memory).install()

    exits = run_guest(vm, 0x1000)

    assert exits == [(0x8008, b"\x5a", True)]
    assert memory.read_u8(0x3000) == memory.read_u8(0x8008) == 0x77
    vm.close()
    memory.close()


def test_guest_when_its_ram_exceeds_the_hosts_starts(vm: Vm) -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this host forbids overcommit (vm.overcommit_memory=2)")
    size = (os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // G + 8) * G
    memory = GuestMemory(assemble(size, *GAP))
    memory.write(0x1000, b"\xc7\x06\x00\x30\xcd\xab" + HLT)  # mov word [0x3000], 0xabcd
    Slots(vm, memory).install()

    run_guest(vm, 0x1000)

    assert memory.read_u16(0x3000) == 0xABCD
    assert memory.size > os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    vm.close()
    memory.close()


def test_guest_when_in_huge_pages_takes_few_faults(vm: Vm) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this host has no transparent huge pages")
    memory = GuestMemory(assemble(16 * M, *GAP))
    code = (
        # Writes one word into each of the pages from 64 KiB to 1 MiB.
        b"\xb8\x00\x10"  # mov ax, 0x1000
        b"\x8e\xc0"  # next: mov es, ax
        b"\x26\xa3\x00\x00"  # mov [es:0], ax
        b"\x05\x00\x01"  # add ax, 0x100
        b"\x73\xf5" + HLT  # jnc next
    )
    memory.write(0x1000, code)
    Slots(vm, memory).install()

    run_guest(vm, 0x1000)

    assert [memory.read_u16(gpa) for gpa in range(0x10000, 0x100000, 0x1000)] == list(
        range(0x1000, 0x10000, 0x100)
    )
    if huge_bytes(memory.regions[0].address) == 0:
        pytest.skip("this host allows huge pages but had none free")
    assert huge_bytes(memory.regions[0].address) >= 2 * M
    vm.close()
    memory.close()


def huge_bytes(address: int) -> int:
    """AnonHugePages of the mapping that holds *address*, in bytes."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            start, end = (int(part, 16) for part in word.split("-"))
            inside = start <= address < end
        elif inside and word == "AnonHugePages:":
            return int(line.split()[1]) * 1024
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_guest_when_in_hugetlb_pages_runs(vm: Vm) -> None:
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not pool.exists() or int(pool.read_text()) < 1:
        pytest.skip("this host has no free hugetlb pages")
    memory = GuestMemory(assemble([Part(2 * M, Hugetlb)], *GAP))
    memory.write(0x1000, b"\xc7\x06\x00\x30\xcd\xab" + HLT)  # mov word [0x3000], 0xabcd
    Slots(vm, memory).install()

    run_guest(vm, 0x1000)

    assert memory.read_u16(0x3000) == 0xABCD
    vm.close()
    memory.close()


def test_dirty_log_when_the_guest_wrote_names_its_pages_once(vm: Vm) -> None:
    memory = GuestMemory(assemble([Part(16 * PAGE_SIZE), Part(16 * PAGE_SIZE)], 0x40000, 0x80000))
    code = (
        b"\xa3\x00\x30"  # mov [0x3000], ax
        b"\xa3\xff\x5f" + HLT  # mov [0x5fff], ax: two pages
    )
    memory.write(0x1000, code)
    slots = Slots(vm, memory)
    slots.install()
    slots.log_dirty(0, True)

    run_guest(vm, 0x1000)

    # KVM may map the page of the code writable when it is fetched, and then counts it as written.
    assert [page for page in slots.dirty_log(0) if page != 0x1000] == [0x3000, 0x5000, 0x6000]
    assert slots.dirty_log(0) == []
    vm.close()
    memory.close()


def test_remove_when_installed_leaves_room_for_other_memory(vm: Vm) -> None:
    first = GuestMemory(assemble(16 * PAGE_SIZE, *GAP))
    slots = Slots(vm, first)
    slots.install()
    slots.remove()
    first.close()
    second = GuestMemory(assemble(8 * PAGE_SIZE, *GAP))
    second.write(0x1000, b"\xc7\x06\x00\x30\xcd\xab" + HLT)  # mov word [0x3000], 0xabcd

    Slots(vm, second).install()
    run_guest(vm, 0x1000)

    assert second.read_u16(0x3000) == 0xABCD
    vm.close()
    second.close()
