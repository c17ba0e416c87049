"""Filters of system calls: the kernel's numbers, and what the programs answer to a call."""

from __future__ import annotations

import fcntl
import os
import re
import termios
from pathlib import Path

import pytest

from pyvmm.backends.net import interface, tap
from pyvmm.host import device_filter, seccomp, vm_filter
from pyvmm.host.confined import CALLS
from pyvmm.host.syscalls import PATH_CALLS, SYSCALLS
from pyvmm.pykvm import ioctls, ioctls_x86
from pyvmm.virtio.vhost import kernel

MACHINES = ("x86_64", "aarch64")
ALLOWED, EPERM, EACCES, ENOSYS, KILLED = 0x7FFF0000, 0x50001, 0x5000D, 0x50026, 0x80000000
#: AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64.
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
THREAD = 0x3D0F00  # the flags of the C library's pthread_create


def answer(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the program *code* returns for a system call; it may have no other instructions than these."""
    words = [number, architecture, 0, 0]
    for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]:
        words += [value & 0xFFFFFFFF, value >> 32]
    at = accumulator = 0
    while True:
        kind, if_true, if_false = code[8 * at], code[8 * at + 2], code[8 * at + 3]
        constant = int.from_bytes(code[8 * at + 4 : 8 * at + 8], "little")
        at += 1
        if kind == 0x20:
            accumulator = words[constant // 4]
        elif kind == 0x06:
            return constant
        else:
            compared = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: accumulator & constant,
            }
            at += if_true if compared[kind] else if_false


def call(code: bytes, machine: str, name: str, *arguments: int) -> int:
    number = SYSCALLS[name][MACHINES.index(machine)]
    assert number is not None
    return answer(code, ARCHITECTURE[machine], number, *arguments)


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_the_kernels(column: int, header: str) -> None:
    if not os.path.exists(header):
        pytest.skip(f"no {header}")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    if column:
        found["newfstatat"] = found["fstatat"]  # its name there is made of another's
    ours = {name: numbers[column] for name, numbers in SYSCALLS.items() if numbers[column] is not None}
    assert {name: int(found[name]) for name in ours} == ours
    assert [name for name, numbers in SYSCALLS.items() if numbers[column] is None and name in found] == []


def test_requests_are_those_that_pyvmm_makes() -> None:
    names = {
        **vars(ioctls),
        **vars(ioctls_x86),
        **vars(kernel),
        **vars(tap),
        **vars(interface),
        **vars(termios),
    }
    for name, number in {**vm_filter.IOCTLS, **vm_filter.X86_IOCTLS}.items():
        assert names[name] == number, name
    for name, number in vm_filter.FCNTLS.items():
        assert getattr(fcntl, name, number) == number, name


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kill", [False, True])
def test_programs_are_short_and_their_jumps_stay_in_them(machine: str, kill: bool) -> None:
    for code in (
        seccomp.program(CALLS, machine),
        vm_filter.program(machine, 1, kill=kill),
        vm_filter.program(machine, 1, files=True, kill=kill),
        device_filter.program(machine, 1, kill=kill),
        device_filter.program(machine, 1, files=True, kill=kill),
    ):
        count = len(code) // 8
        assert count < 600
        for at in range(count):
            kind, if_true, if_false = code[8 * at], code[8 * at + 2], code[8 * at + 3]
            if kind & 7 == 5:  # BPF_JMP
                assert at + 1 + max(if_true, if_false) < count


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machines_filter_answers_each_call_as_it_should(machine: str) -> None:
    pid = 4711
    code = vm_filter.program(machine, pid)
    for name in vm_filter.CALLS:
        if SYSCALLS[name][MACHINES.index(machine)] is not None and name not in (
            *vm_filter.NUMBERS,
            *seccomp.REQUIRED_BIT,
            "tgkill",
        ):
            assert call(code, machine, name) == ALLOWED, name
    for name in PATH_CALLS:
        if SYSCALLS[name][MACHINES.index(machine)] is not None:
            assert call(code, machine, name) == EACCES, name
    assert call(code, machine, "clone3") == ENOSYS
    assert call(code, machine, "seccomp", 1) == EPERM
    assert call(code, machine, "mmap", 0, 4096, 3) == ALLOWED
    assert call(code, machine, "mmap", 0, 4096, 7) == EPERM
    assert call(code, machine, "mprotect", 0, 4096, 5) == EPERM
    assert call(code, machine, "clone", THREAD) == ALLOWED
    assert call(code, machine, "clone", 17) == EPERM  # fork: SIGCHLD
    assert call(code, machine, "clone", THREAD | 0x20000000) == EPERM  # CLONE_NEWPID
    assert call(code, machine, "tgkill", pid, 5, 40) == ALLOWED
    assert call(code, machine, "tgkill", pid + 1, 5, 40) == EPERM
    for name, (index, numbers) in vm_filter.NUMBERS.items():
        for number in numbers:
            assert call(code, machine, name, *[0] * index, number) == ALLOWED, (name, hex(number))
            # The kernel takes 32 bits of them.
            assert call(code, machine, name, *[0] * index, number | 1 << 40) == ALLOWED
        assert call(code, machine, name, *[0] * index, 0xAE01) == EPERM  # KVM_CREATE_VM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_devices_filter_has_no_names_unless_it_has_paths(machine: str) -> None:
    empty_path, no_follow, unix, internet = 0x1000, 0x100, 1, 2
    without, files = (device_filter.program(machine, 1, files=files) for files in (False, True))
    assert call(without, machine, "newfstatat", 0, 0, 0, empty_path) == ALLOWED
    assert call(without, machine, "newfstatat", 0, 0, 0, empty_path | no_follow) == EPERM
    assert call(files, machine, "newfstatat", 0, 0, 0, no_follow) == ALLOWED
    for name in ("openat", "unlinkat", "renameat2", "mkdirat"):
        assert (call(without, machine, name), call(files, machine, name)) == (EACCES, ALLOWED)
    assert call(without, machine, "socket", unix) == EPERM
    assert call(files, machine, "socket", unix) == ALLOWED
    for code in (without, files):
        assert call(code, machine, "socket", internet) == EPERM
        assert call(code, machine, "execve") == EACCES
        assert call(code, machine, "mount") == EACCES
        assert call(code, machine, "ioctl", 0, vm_filter.IOCTLS["KVM_RUN"]) == EPERM
        assert call(code, machine, "ioctl", 0, vm_filter.IOCTLS["FIONREAD"]) == ALLOWED


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architectures_call_kills(machine: str) -> None:
    code = vm_filter.program(machine, 1)
    other = MACHINES[1 - MACHINES.index(machine)]
    assert answer(code, ARCHITECTURE[other], 0) == KILLED
    assert answer(code, ARCHITECTURE[machine], 0x40000000) == KILLED  # x32


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_that_kills_refuses_nothing_else(machine: str) -> None:
    code = vm_filter.program(machine, 1, kill=True)
    for name in ("openat", "seccomp", "execve"):
        assert call(code, machine, name) == KILLED
    assert call(code, machine, "ioctl", 0, 0xAE01) == KILLED
    assert call(code, machine, "clone3") == ENOSYS
    assert call(code, machine, "read") == ALLOWED
