"""tables: what a guest is told of its machine, built: the arm64 device tree, the x86-64 ACPI and MP tables.

On this machine, in this process, warm; the median of many builds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from common import Row

from pyvmm.arch.arm64 import layout as arm64
from pyvmm.arch.arm64.tree import MachineTree, describe_boot
from pyvmm.arch.x86_64.platform import X86Platform
from pyvmm.boot.devicetree import pack
from pyvmm.config import Config
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous

#: Milliseconds.
TARGET = 5.0
CPUS = (1, 8)
DEVICES = 6
TIMES = 200
MIB = 1 << 20


def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for cpus in CPUS:
        for what, build in (("device tree", _device_tree(cpus)), ("ACPI and MP tables", _x86_tables(cpus))):
            times = sorted(_milliseconds(build) for _ in range(TIMES))
            measure = f"{what}, {cpus} CPU{'s' if cpus > 1 else ''}"
            rows.append(Row(measure, "ms", statistics.median(times), target=TARGET, samples={"pyvmm": times}))
    return rows


def notes(options: argparse.Namespace) -> list[str]:
    return [f"{DEVICES} virtio devices, the median of {TIMES} builds"]


def _milliseconds(build: Callable[[], object]) -> float:
    begin = time.perf_counter()
    build()
    return (time.perf_counter() - begin) * 1000


def _device_tree(cpus: int) -> Callable[[], object]:
    def build() -> bytes:
        made = MachineTree(list(range(cpus)), [(arm64.RAM, 256 * MIB)], 3, [(arm64.GIC_REDIST[0][0], cpus)])
        made.add_pl011(arm64.UART0, arm64.UART0_SPI, "uart0", 0)
        made.add_rtc(arm64.RTC, arm64.RTC_SPI)
        made.add_gpio(arm64.GPIO, arm64.GPIO_SPI, arm64.POWER_BUTTON)
        made.add_watchdog(arm64.WATCHDOG, arm64.WATCHDOG_SPI)
        for number in range(DEVICES):
            made.add_virtio(arm64.MMIO_START + number * arm64.VIRTIO_SIZE, arm64.SPI_START + number)
        describe_boot(made.tree, "console=ttyAMA0 panic=-1", (0x4800_0000, 0x4880_0000), "serial0:115200n8")
        return pack(made.tree)

    return build


def _x86_tables(cpus: int) -> Callable[[], object]:
    memory = GuestMemory([Region(0, 4 * MIB, Anonymous(4 * MIB), 0, readonly=False, name="ram")])
    platform = X86Platform(Config(kernel="not loaded", cpus=cpus), None)
    platform.virtio = [(0xD000_0000 + 0x1000 * number, 16 + number % 8) for number in range(DEVICES)]
    return lambda: platform.boot_params(memory, "console=ttyS0 panic=-1", [])
