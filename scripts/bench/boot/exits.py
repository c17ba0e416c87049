"""Counts what sends a VMM's vCPUs to user space, with the kernel's own tracepoints. Root only.

``Counter`` counts ``kvm:kvm_userspace_exit`` by perf_event_open(2): one increment an exit, so a timed
run is not disturbed. ``Trace`` writes every exit down, with the port or address that caused it: for
finding out what to save, not for timing. Both see this process's children, threads included, and
nothing else of the machine.

Sources: Linux include/uapi/linux/perf_event.h, Documentation/trace/events.rst,
arch/x86/include/asm/svm.h (EXITINFO of an I/O and of a nested page fault).
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections import Counter as Tally
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
EVENT = "events/kvm/kvm_userspace_exit"

#: ``exit_reason`` in <linux/kvm.h>.
REASONS = {2: "io", 6: "mmio"}

_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTR_SIZE_VER0 = 64
_INHERIT = 1 << 1  # the bits of perf_event_attr's flag word
_IOC_SET_FILTER = 0x40082406

_libc = ctypes.CDLL(None, use_errno=True)


class Counter:
    """User-space exits of the processes started from now on: in all, by port I/O, by MMIO."""

    def __init__(self) -> None:
        event = int((TRACEFS / EVENT / "id").read_text())
        filters = {"all": "", **{name: f"reason == {number}" for number, name in REASONS.items()}}
        self._fds = {name: _open(event, text) for name, text in filters.items()}

    def read(self) -> dict[str, int]:
        return {name: struct.unpack("<Q", os.read(fd, 8))[0] for name, fd in self._fds.items()}

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


class Trace:
    """Every exit of the processes started while it is open, in a tracefs instance of its own."""

    BUFFER_KIB = 100 << 10  # for each CPU

    def __init__(self) -> None:
        self._place = TRACEFS / "instances" / f"pyvmm-bench-{os.getpid()}"
        self._place.mkdir()
        self._put("buffer_size_kb", self.BUFFER_KIB)
        self._put("options/event-fork", 1)
        self._put("set_event_pid", os.getpid())
        self._put("events/kvm/kvm_exit/filter", "exit_reason == 0x7b || exit_reason == 0x400")
        for event in ("events/kvm/kvm_exit", EVENT):
            self._put(f"{event}/enable", 1)

    def read(self) -> Tally[str]:
        """How often each cause was seen, as ``in 0x3fd``, ``mmio write 0xfec00000``, ``interrupted``."""
        self._put("tracing_on", 0)
        tally: Tally[str] = Tally()
        cause: dict[str, str] = {}
        with open(self._place / "trace", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("#"):
                    if "LOST" in line:
                        tally["lost events"] += 1
                    continue
                task, _, event = line.partition(" [")
                if "kvm_exit:" in event:
                    cause[task] = _cause(event)
                elif "reason KVM_EXIT_IO " in event or "reason KVM_EXIT_MMIO " in event:
                    tally[cause.get(task, "unknown")] += 1
                else:
                    tally[event.rpartition("reason ")[2].split(" (")[0].strip()] += 1
        return tally

    def close(self) -> None:
        self._put("events/enable", 0)
        self._place.rmdir()

    def _put(self, name: str, value: object) -> None:
        (self._place / name).write_text(f"{value}\n")


_KVM_EXIT = re.compile(r"reason (\S+) .*info1 0x([0-9a-f]+) info2 0x([0-9a-f]+)")


def _cause(event: str) -> str:
    match = _KVM_EXIT.search(event)
    if match is None:
        return "unknown"
    reason, info1, info2 = match[1], int(match[2], 16), int(match[3], 16)
    if reason == "io":
        string = "string " if info1 & 4 else ""
        return f"{string}{'in' if info1 & 1 else 'out'} {info1 >> 16 & 0xFFFF:#05x}"
    return f"mmio {'write' if info1 & 2 else 'read'} {info2:#x}"


def _open(event: int, text: str) -> int:
    attribute = struct.pack("<IIQQQQQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTR_SIZE_VER0, event, 0, 0, 0, _INHERIT)
    attribute = attribute.ljust(_PERF_ATTR_SIZE_VER0, b"\0")
    fd: int = _libc.syscall(_NR_PERF_EVENT_OPEN, attribute, 0, -1, -1, 0)
    if fd < 0 or (text and _libc.ioctl(fd, ctypes.c_ulong(_IOC_SET_FILTER), text.encode()) != 0):
        error = ctypes.get_errno()
        raise OSError(error, f"counting KVM's tracepoints: {os.strerror(error)}")
    return fd
