"""start: a process from its start to the guest's first instruction to its end; memory beyond the guest's.

The guest is ``firmware/x86_64/bin/exit.bin``: the 16 bytes of the reset vector write to the debug-exit port.
Time is the wall clock around posix_spawn and wait4, and the processor time of all its processes, 256 MiB, no
console; for pyvmm as a wheel installs it and as scripts/setup.sh does, without a sandbox, and with those of
both. Memory is the Rss of all mappings in /proc/PID/smaps but those of 256 MiB and more (guest RAM), of a
process whose guest has said that it spins; the Rss of guest RAM stands beside it. The sandbox is entered and
sealed by a forked process with pyvmm's modules.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import tempfile
import time
from ast import literal_eval
from functools import partial
from pathlib import Path

import installed
from common import FIRMWARE, ROOT, Row, SkippedError, interleave, pairs_row, program, progress

from pyvmm.host.libc import function
from pyvmm.host.sandbox import Sandbox

MIB = 1 << 20
MEMORY = 256 * MIB
ROM = 64 << 10
#: Seconds until a guest that does not end, or say that it spins, is given up.
LIMIT = 20.0
#: Seconds of untimed runs first: page cache, byte code, the host's KVM module, and the bundle of pyvmm's
#: modules, which is made once no source is younger than two seconds.
WARM_UP = 3.0
TIME_TARGET = 0.8
CONFINED_TARGET = 0.9
MEMORY_TARGET = 0.5
#: Milliseconds, and how often it is entered.
SANDBOX_TARGET, SANDBOX_ROUNDS = 5.0, 15

#: All that QEMU's has.
_QEMU_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_PR_SET_CHILD_SUBREAPER = 36

#: kvmtool takes no ROM on x86; this is `mov al, 0xfe; out 0x64, al; hlt`, a reset, as its flat binary.
_KVMTOOL_GUEST = bytes.fromhex("b0fee664f4")


def measure(options: argparse.Namespace) -> list[Row]:
    function("prctl")(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a VM process may end after its parent
    pyvmm = str(installed.environment(progress) / "bin" / "pyvmm")
    editable = str(_editable())
    qemu = program(options.qemu, "qemu-system-x86")
    with tempfile.TemporaryDirectory() as folder:
        exit_rom, spin_rom = _padded("exit.bin", folder), _padded("spin.bin", folder)
        commands = {
            "pyvmm": ([*_pyvmm(pyvmm, exit_rom, "none"), "--sandbox", "off"], {32}),
            "editable": ([*_pyvmm(editable, exit_rom, "none"), "--sandbox", "off"], {32}),
            "qemu": (_qemu(qemu, exit_rom), {1}),
            "confined pyvmm": ([*_pyvmm(pyvmm, exit_rom, "none"), "--sandbox", "strict"], {32}),
            "confined qemu": ([*_qemu(qemu, exit_rom), "-sandbox", _QEMU_SANDBOX], {1}),
        }
        if options.kvmtool:
            commands["kvmtool"] = (_kvmtool(options.kvmtool, folder), {0})
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        runs = {name: partial(_time, *command, cpu[name]) for name, command in commands.items()}
        for run in runs.values():
            end = time.monotonic() + WARM_UP
            while time.monotonic() < end:
                run()
        for values in cpu.values():
            values.clear()
        times = interleave(runs, _rounds(options), progress)
        memory = {
            "pyvmm": partial(_memory, _pyvmm(pyvmm, spin_rom, "stdio")),
            "qemu": partial(_memory, [*_qemu(qemu, spin_rom), "-serial", "stdio"]),
        }
        sizes: dict[str, list[tuple[float, float, float]]] = {name: [] for name in memory}
        for _ in range(options.pairs):
            for name, look in memory.items():
                progress(f"memory of {name}")
                sizes[name].append(look())
    rows = [
        pairs_row("start to exit", "ms", times["pyvmm"], "qemu", times["qemu"], TIME_TARGET),
        pairs_row("the same, editable", "ms", times["editable"], "qemu", times["qemu"], TIME_TARGET),
        pairs_row("processor time", "ms", cpu["pyvmm"], "qemu", cpu["qemu"]),
        pairs_row("the same, editable", "ms", cpu["editable"], "qemu", cpu["qemu"]),
    ]
    confined = [(found["confined pyvmm"], found["confined qemu"]) for found in (times, cpu)]
    for name, target, (ours, peer) in zip(
        ("start to exit, confined", "processor time, confined"),
        (CONFINED_TARGET, None),
        confined,
        strict=True,
    ):
        rows.append(pairs_row(name, "ms", ours, "qemu", peer, target))
    entered = [_enter_sandbox() for _ in range(SANDBOX_ROUNDS)]
    median = statistics.median(entered)
    rows.append(Row("entering the sandbox", "ms", median, target=SANDBOX_TARGET, samples={"pyvmm": entered}))
    if "kvmtool" in times:
        rows.append(pairs_row("start to exit", "ms", times["pyvmm"], "kvmtool", times["kvmtool"]))
    names = ("resident beyond guest RAM", "proportional beyond guest RAM", "resident guest RAM")
    for column, (name, target) in enumerate(zip(names, (MEMORY_TARGET, None, None), strict=True)):
        ours, peer = ([size[column] for size in sizes[who]] for who in ("pyvmm", "qemu"))
        rows.append(pairs_row(name, "MiB", ours, "qemu", peer, target))
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    told = [f"time: {_rounds(options)} rounds; memory: {options.pairs}"]
    return told if options.kvmtool else [*told, "kvmtool skipped: give its binary with --kvmtool PATH"]


def _rounds(options: argparse.Namespace) -> int:
    """A start is short, so three rounds for each pair asked for."""
    return int(options.pairs) * 3


def _editable() -> Path:
    """The command that scripts/setup.sh installs. Raises SkippedError."""
    path = ROOT / ".venv" / "bin" / "pyvmm"
    if not path.exists() or path.read_bytes() != (ROOT / "scripts" / "pyvmm").read_bytes():
        raise SkippedError(f"{path} is not that of this checkout; run scripts/quickstart")
    return path


def _pyvmm(pyvmm: str, rom: str, console: str) -> list[str]:
    return [pyvmm, "run", "--firmware", rom, "--memory", "256M", "--console", console]


def _qemu(qemu: str, rom: str) -> list[str]:
    line = f"{qemu} -M microvm -accel kvm -m 256 -nodefaults -no-user-config -display none -no-reboot -bios"
    return [*line.split(), rom, "-device", "isa-debug-exit,iobase=0x501,iosize=4"]


def _kvmtool(path: str, folder: str) -> list[str]:
    guest = Path(folder) / "reset.bin"
    guest.write_bytes(_KVMTOOL_GUEST)
    return [program(path, "kvmtool"), "run", "-k", str(guest), "-m", "256", "--network", "mode=none"]


def _padded(name: str, folder: str) -> str:
    """A copy of a guest program as long as QEMU wants a ROM."""
    path = Path(folder) / name
    path.write_bytes((FIRMWARE / name).read_bytes().rjust(ROM, b"\0"))
    return str(path)


def _spawn(command: list[str], stdout: int, nothing: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, nothing, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    actions.append((os.POSIX_SPAWN_DUP2, nothing, 2))
    return os.posix_spawn(command[0], command, os.environ, file_actions=actions)


def _time(command: list[str], expected: set[int], cpu: list[float]) -> float:
    """Milliseconds from posix_spawn to the end of the process; those of processors go to *cpu*.

    Raises SkippedError.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)  # the default action of SIGALRM ends the benchmark
    try:
        begin = time.perf_counter_ns()
        pid = _spawn(command, nothing, nothing)
        _, status, usage = os.wait4(pid, 0)
        end = time.perf_counter_ns()
        spent = usage.ru_utime + usage.ru_stime + _left()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.close(nothing)
    code = os.waitstatus_to_exitcode(status)
    if code not in expected:
        raise SkippedError(f"{' '.join(command)} ended with {code}, not {expected}")
    cpu.append(spent * 1e3)
    return (end - begin) / 1e6


def _left() -> float:
    """Waits for the processes that outlived the one which made them; seconds of their processor time."""
    spent = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return spent
        spent += usage.ru_utime + usage.ru_stime


def _enter_sandbox() -> float:
    """Milliseconds of a forked process for both halves of the sandbox. Raises SkippedError."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            begin = time.perf_counter_ns()
            sandbox = Sandbox()
            sandbox.enter([2, theirs])
            sandbox.seal()
            taken = (time.perf_counter_ns() - begin) / 1e6
            os.write(theirs, repr((taken, sandbox.lacking)).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(pid, 0)
    taken, lacking = literal_eval(os.read(ours, 4096).decode())
    os.close(ours)
    if lacking:
        raise SkippedError(f"this host cannot do all of the sandbox: {'; '.join(lacking)}")
    return float(taken)


def _memory(command: list[str]) -> tuple[float, float, float]:
    """MiB of a process whose guest spins: resident and proportional beyond guest RAM, resident guest RAM."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    pid = _spawn(command, theirs, nothing)
    os.close(theirs)
    os.close(nothing)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        said = b""
        while b"spinning" not in said:
            data = os.read(ours, 256)
            if not data:
                raise SkippedError(f"{' '.join(command)} ended; the guest said {said!r}")
            said += data
        smaps = Path(f"/proc/{pid}/smaps").read_text()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.close(ours)
        os.kill(pid, signal.SIGKILL)
        os.wait4(pid, 0)
    return _beyond_ram(smaps)


def _beyond_ram(smaps: str) -> tuple[float, float, float]:
    rss = pss = ram = 0
    found = re.findall(r"^Size: +(\d+) kB\n(?:.*\n)*?Rss: +(\d+) kB\nPss: +(\d+) kB", smaps, re.MULTILINE)
    for size, resident, proportional in (map(int, group) for group in found):
        if size << 10 >= MEMORY:
            ram += resident
        else:
            rss += resident
            pss += proportional
    return rss / 1024, pss / 1024, ram / 1024
