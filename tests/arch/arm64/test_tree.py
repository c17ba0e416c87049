"""The machine's device tree: what dtc and dt-validate say of it, and how long it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm.arch.arm64 import layout
from pyvmm.arch.arm64.tree import MachineTree, describe_boot, describe_memory
from pyvmm.boot.devicetree import DeviceTreeError, Tree, apply_overlay, pack, unpack
from pyvmm.devices import fwcfg
from pyvmm.images import cache
from tests.support.devicetree_tools import compiled, run, source_of, tool

GIB = 1 << 30
#: Linux Documentation/devicetree/bindings: what the machine has, and what those refer to.
BINDINGS = (
    "arm/cpus",
    "arm/pmu",
    "arm/primecell",
    "arm/psci",
    "clock/fixed-clock",
    "firmware/qemu,fw-cfg-mmio",
    "gpio/pl061-gpio",
    "input/gpio-keys",
    "input/input",
    "interrupt-controller/arm,gic",
    "interrupt-controller/arm,gic-v3",
    "rtc/arm,pl031",
    "rtc/rtc",
    "serial/8250",
    "serial/pl011",
    "serial/serial",
    "timer/arm,arch_timer",
    "virtio/mmio",
    "virtio/virtio-device",
    "watchdog/arm,sp805",
    "watchdog/watchdog",
)


def machine(cpus: int = 2, gic: int = 3, **more: bool) -> MachineTree:
    """A tree with one of everything."""
    redistributors = [(layout.GIC_REDIST[0][0], min(cpus, 123))]
    if cpus > 123:
        redistributors.append((layout.GIC_REDIST[1][0], cpus - 123))
    numbers = [(n & 15) | n >> 4 << 8 for n in range(cpus)]
    made = MachineTree(
        numbers, [(layout.RAM, GIB)], gic, redistributors if gic == 3 else (), its=gic == 3, pmu=True, **more
    )
    made.add_pl011(layout.UART0, layout.UART0_SPI, "uart0", 0)
    made.add_ns16550(layout.UART1, layout.UART1_SPI, "uart1", 1, 2)
    made.add_rtc(layout.RTC, layout.RTC_SPI)
    made.add_gpio(layout.GPIO, layout.GPIO_SPI, layout.POWER_BUTTON)
    made.add_watchdog(layout.WATCHDOG, layout.WATCHDOG_SPI)
    made.add_fw_cfg(layout.FW_CFG, fwcfg.REGISTERS_SIZE)
    for n in range(4):
        made.add_virtio(layout.MMIO_START + n * layout.VIRTIO_SIZE, layout.SPI_START + n)
    describe_boot(made.tree, "console=ttyAMA0", (0x4200_0000, 0x4280_0000), "serial0:115200n8")
    return made


def _beside_python(name: str) -> Path:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install dtschema")
    return path


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bindings of what the machine has, for dt-validate, out of the kernel source in the cache."""
    maker = _beside_python("dt-mk-schema")
    packages = sorted(
        (cache.directory() / "debian" / "amd64").glob("linux-source-*_*/usr/src/linux-source-*.tar.xz")
    )
    if not packages:
        pytest.skip("the kernel's bindings are in its source: pyvmm image fetch linux-source")

    def extract(place: Path) -> None:
        folder = f"{packages[-1].name.removesuffix('.tar.xz')}/Documentation/devicetree/bindings"
        place.mkdir()
        options = ["--directory", place, "--strip-components=4"]
        names = [f"{folder}/{name}.yaml" for name in BINDINGS]
        subprocess.run(["tar", "-xJf", packages[-1], *options, *names], check=True, timeout=250)

    bindings = cache.entry(f"devicetree-bindings/{packages[-1].name}-{len(BINDINGS)}", extract)
    made = tmp_path_factory.mktemp("schema") / "schema.json"
    subprocess.run([maker, "-j", "-o", made, bindings], check=True, capture_output=True, timeout=120)
    return made


def blob(**keys: int) -> bytes:
    return pack(machine(**keys).tree)


@pytest.mark.parametrize("keys", [{}, {"gic": 2}, {"cpus": 1}, {"cpus": 254}], ids=str)
def test_tree_when_checked_by_dtc_has_no_warning(keys: dict[str, int]) -> None:
    # It wants #address-cells of the GPIO, whose binding does not allow it.
    command = [tool("dtc"), "-Wno-interrupt_provider", "-I", "dtb", "-O", "dts"]
    done = subprocess.run(command, input=blob(**keys), capture_output=True, check=True, timeout=60)

    assert done.stderr.decode() == ""


@pytest.mark.parametrize("keys", [{}, {"gic": 2}, {"cpus": 130}], ids=str)
def test_tree_when_checked_against_the_kernels_bindings_breaks_no_rule(
    tmp_path: Path, schema: Path, keys: dict[str, int]
) -> None:
    path = tmp_path / "machine.dtb"
    path.write_bytes(blob(**keys))

    done = subprocess.run(
        [_beside_python("dt-validate"), "-m", "-s", schema, path], capture_output=True, text=True, timeout=120
    )

    # The virtual machine's own compatible is Linux's arch/arm64/kernel; it has no binding.
    complaints = [line for line in done.stderr.splitlines() if "['linux,dummy-virt']" not in line]
    assert (done.returncode, done.stdout, complaints) == (0, "", [])


def test_tree_when_a_rule_is_broken_is_caught_by_the_same_check(tmp_path: Path, schema: Path) -> None:
    made = machine()
    del made.root.children["serial@9000000"].properties["reg"]
    path = tmp_path / "machine.dtb"
    path.write_bytes(pack(made.tree))

    done = subprocess.run(
        [_beside_python("dt-validate"), "-s", schema, path], capture_output=True, text=True, timeout=120
    )

    assert "'reg' is a required property" in done.stderr


def test_tree_when_built_takes_less_than_five_milliseconds() -> None:
    machine()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        blob()
        times.append(time.perf_counter() - begin)

    assert min(times) < 0.005


def test_tree_when_there_are_two_redistributor_regions_says_so() -> None:
    gic = machine(cpus=130).root.children["interrupt-controller@8000000"]

    assert gic.cells("#redistributor-regions") == [2]
    assert gic.cells("reg")[-4:] == [0, 0x1000_0000, 0, 7 * layout.GIC_REDIST_SIZE]


def test_cpus_when_a_number_has_its_highest_part_take_two_cells() -> None:
    tree = MachineTree([0, 1 << 32], [(layout.RAM, GIB)], 3, layout.GIC_REDIST[:1]).tree

    cpus = tree.root.children["cpus"]
    assert cpus.cells("#address-cells") == [2]
    assert [node.cells("reg") for name, node in cpus.children.items() if name.startswith("cpu@")] == [
        [0, 0],
        [1, 0],
    ]


def test_chosen_when_described_again_has_the_new_values_and_other_seeds() -> None:
    tree = machine().tree
    before = dict(tree.root.children["chosen"].properties)

    describe_boot(tree, "other")

    after = tree.root.children["chosen"].properties
    assert after["bootargs"] == b"other\0"
    assert "linux,initrd-start" not in after
    assert after["rng-seed"] != before["rng-seed"]
    assert after["stdout-path"] == before["stdout-path"]


def test_overlay_when_it_names_a_device_by_its_label_reaches_it() -> None:
    tree = machine().tree
    tree.write_symbols()
    overlay = compiled('/plugin/; &uart0 { status = "disabled"; }; &{/} { extra { irq = <&gic>; }; };')

    apply_overlay(tree, unpack(overlay))

    found = unpack(pack(tree))
    uart, extra = found.find("/serial@9000000"), found.find("/extra")
    assert uart is not None and uart.text("status") == "disabled"
    assert extra is not None and extra.cells("irq")[0] in found.phandles()
    assert "disabled" in source_of(pack(found))


def test_memory_when_a_tree_of_somebody_else_has_some_is_the_machines() -> None:
    tree = unpack(compiled("/ { #address-cells = <2>; #size-cells = <1>; memory@0 { reg = <0 0 1>; }; };"))

    describe_memory(tree, [(0x8000_0000, 0x1000_0000)])

    memory = [node for name, node in tree.root.children.items() if name.startswith("memory")]
    assert [node.cells("reg") for node in memory] == [[0, 0x8000_0000, 0x1000_0000]]


def test_memory_when_the_trees_cells_cannot_hold_it_says_so() -> None:
    tree = Tree()
    tree.root.set("#address-cells", 1)
    tree.root.set("#size-cells", 1)

    with pytest.raises(DeviceTreeError, match="two cells"):
        describe_memory(tree, [(1 << 32, GIB)])


def test_tools_when_run_are_the_ones_these_tests_mean() -> None:
    assert b"Version: DTC" in run(tool("dtc"), "--version")
