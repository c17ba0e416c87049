"""console: the virtio console against a bare writev, against our serial port, and a boot against QEMU's.

The device side alone is driven by the fake driver on this machine. The rest runs in the lab: exits to user
space by the tracepoint kvm:kvm_userspace_exit, of the work alone (a run with it, less a run without).
"""

from __future__ import annotations

import argparse
import os
import threading
import time

import installed
import lab
from boot import benchmark as boot
from common import Row, interleave, pairs_row, progress

from pyvmm.backends.base import CharBackend
from pyvmm.backends.writer import DescriptorWriter
from pyvmm.testing import FakeDriver
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port

CHAIN = 64 << 10
#: Bytes a round.
VOLUME = 256 << 20
#: 200 MB/s.
TIME_TARGET = 5.0
DD_TARGET = 0.01
LOG_TARGET = 0.125
BOOT_TARGET = 0.15
DONE = "bench done"
BOOTS = ("boot", "qemu")
LINES = 100
LINE = "a line of a kernel log as long as many of them are, 64 bytes"


class Pipe(CharBackend):
    """A pipe with a thread that reads all that comes."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self._writer = DescriptorWriter(self)
        self._thread = threading.Thread(target=self._swallow)
        self._thread.start()

    def attach(self, loop, receive, space):  # type: ignore[no-untyped-def]
        self._writer.open(loop, self.writer)

    def offer(self, views):  # type: ignore[no-untyped-def]
        return self._writer.offer(views)

    def close(self) -> None:
        if self.writer >= 0:
            self._writer.close()
            os.close(self.writer)
            self.writer = -1
            self._thread.join()

    def _swallow(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        while os.splice(self.reader, null, 1 << 20):
            pass
        os.close(null)
        os.close(self.reader)


def through_device() -> float:
    """Milliseconds a megabyte, from chains of 64 KiB into a pipe."""
    pipe = Pipe()
    with FakeDriver(VirtioConsole([Port(pipe, "data", console=False)])) as driver:
        ring = driver.queues[1]
        address = driver.allocate(CHAIN, 4096)
        left = VOLUME // CHAIN
        begin = time.perf_counter()
        while left or ring.pending:
            while left and ring.free:
                ring.add_buffers([(address, CHAIN, 0)])
                left -= 1
            ring.kick()
            driver.loop.run_once(0.1)
            ring.collect()
        return (time.perf_counter() - begin) * 1e9 / VOLUME


def by_writev() -> float:
    """The same by writev(2) alone."""
    pipe = Pipe()
    os.set_blocking(pipe.writer, True)
    data = memoryview(bytes(CHAIN))
    begin = time.perf_counter()
    for _ in range(VOLUME // CHAIN):
        os.writev(pipe.writer, [data])
    seconds = time.perf_counter() - begin
    pipe.close()
    return seconds * 1e9 / VOLUME


def measure(options: argparse.Namespace) -> list[Row]:
    found = interleave({"device": through_device, "writev": by_writev}, options.pairs, progress)
    rows = [
        pairs_row("64 KiB chains to a pipe", "ms/MB", found["device"], "writev", found["writev"]),
        pairs_row(
            "the same, at least 200 MB/s",
            "ms/MB",
            found["device"],
            "target",
            [TIME_TARGET] * len(found["device"]),
            1.0,
        ),
    ]
    runs = _runs(options)
    results: dict[str, list[float]] = {name: [] for name in runs}
    order = [lab.warm_up(lab.pyvmm(cmdline=boot.CMDLINE))]
    for _ in range(options.boot_pairs):
        for name, command in runs.items():
            order.append(lab.run(name, command, boot.LINE if name in BOOTS else DONE, boot.LIMIT))
    for result in lab.results("boot/guest.py", order):
        results[result["name"]].append(float(result["exits"]["all"]))
    for what, target in (("dd bs=64k", DD_TARGET), ("kernel log", LOG_TARGET)):
        ours, serial = (
            [a - b for a, b in zip(results[f"{what} {who}"], results[f"idle {who}"], strict=True)]
            for who in ("hvc0", "ttyS0")
        )
        rows.append(pairs_row(f"{what}: exits", "", ours, "serial", serial, target))
    rows.append(
        pairs_row("boot on hvc0: exits", "", results["boot"], "qemu ttyS0", results["qemu"], BOOT_TARGET)
    )
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    return [
        f"{options.pairs} pairs here, {options.boot_pairs} in the lab",
        "boot: Debian's virtio_console is a module, and hvc0 shows what the kernel says from then on",
        f"dd: 64 KiB to the tty; kernel log: {LINES} lines of {len(LINE)} bytes through /dev/kmsg",
    ]


def _runs(options: argparse.Namespace) -> dict[str, list[str]]:
    pyvmm = str(installed.environment(progress) / "bin" / "pyvmm")
    runs = {}
    log = f"for n in $(seq {LINES}); do echo '<1>{LINE}' > /dev/kmsg; done"
    for console, where in (("hvc0", ["--hvc", "none"]), ("ttyS0", ["--console", "none"])):
        for name, work in (
            ("idle", "true"),
            ("dd bs=64k", f"dd if=/dev/zero of=/dev/{console} bs=64k count=1"),
            ("kernel log", log),
        ):
            command = f"{work}; echo {DONE}"
            runs[f"{name} {console}"] = [pyvmm, "run", "--memory", "256M", *where, "--exec", command]
    runs["boot"] = [*lab.pyvmm(cmdline=None), "--hvc", "stdio"]
    runs["qemu"] = lab.qemu(options, cmdline=boot.CMDLINE)
    return runs
