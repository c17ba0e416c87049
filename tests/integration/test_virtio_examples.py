"""The worked examples, each driven by a real Linux driver in a guest."""

from __future__ import annotations

import functools
import struct
import subprocess
from pathlib import Path

import pytest

from pyvmm.images.default import default_guest
from pyvmm.images.kernel import minimal_kernel
from tests.support.linux import LIMIT, execute

pytestmark = [pytest.mark.hw, pytest.mark.timeout(LIMIT + 30)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: One word says what follows, up to the next line with "== ".
BUSES = """
adapter=$(ls -d /sys/bus/i2c/devices/i2c-*); number=${adapter##*-}
echo == adapter; cat $adapter/name
echo == detected; i2cdetect -y $number | tail -n +2
echo lm75 0x48 > $adapter/new_device; echo 24c02 0x50 > $adapter/new_device
sensor=$(ls -d $adapter/$number-0048/hwmon/hwmon*)
echo == temperature; cat $sensor/temp1_input
echo 60000 > $sensor/temp1_max
echo == limit; cat $sensor/temp1_max
eeprom=$adapter/$number-0050/eeprom
head -c 200 /dev/urandom > /tmp/data; dd if=/tmp/data of=$eeprom bs=200 seek=0 2> /dev/null
echo == eeprom; head -c 200 $eeprom | cmp - /tmp/data && echo same; wc -c < $eeprom
echo == nobody; i2cget -y $number 0x22 0 2> /dev/null || echo refused

label=$(grep -l ^virtio /sys/class/gpio/gpiochip*/label); chip=${label%/*}; base=$(cat $chip/base)
echo == chip; cat $chip/ngpio; cat $chip/label
cd /sys/class/gpio
echo $base > export; echo $((base + 8)) > export
echo == names; ls -d line*
echo out > line0/direction; echo in > line8/direction; echo both > line8/edge
count() { awk '/virtio-gpio/ { sum += $2 } END { print sum }' /proc/interrupts; }
echo == wire; cat line8/value; echo 1 > line0/value; cat line8/value
for n in 0 1 0 1 0 1 0 1 0; do echo $n > line0/value; cat line8/value > /dev/null; done
echo == interrupts; count
echo none > line8/edge; echo 1 > line0/value; cat line8/value
echo == afterwards; ls line8
"""


def parts(output: bytes) -> dict[str, list[str]]:
    """What the guest said, by the words that announced it."""
    found = {}
    for part in output.decode().split("== ")[1:]:
        name, *lines = part.splitlines()
        found[name] = lines
    return found


@functools.cache
def with_buses() -> subprocess.CompletedProcess[bytes]:
    """One guest of the minimal kernel with adapter and expander, for all tests here."""
    return execute(
        "--kernel",
        str(minimal_kernel()),
        "--initrd",
        default_guest().initrd,
        "--device",
        f"{EXAMPLES}/i2c_adapter.py:I2cAdapter,temperature=36.5",
        "--device",
        f"{EXAMPLES}/gpio_expander.py:GpioExpander,wires=0:8",
        command=BUSES,
    )


@pytest.fixture
def said() -> dict[str, list[str]]:
    assert with_buses().returncode == 0, with_buses()
    return parts(with_buses().stdout)


class TestBuses:
    """I2C and GPIO by the drivers of the minimal kernel: stock distributions have them not."""

    def test_adapter_is_found_and_its_chips_answer_at_their_addresses(
        self, said: dict[str, list[str]]
    ) -> None:
        there = {word for line in said["detected"] for word in line.split()[1:]} - {"--"}

        assert "virtio" in said["adapter"][0].lower()
        assert there == {"48", "50"}

    def test_lm75_driver_reads_the_temperature_and_sets_the_limit(self, said: dict[str, list[str]]) -> None:
        assert (said["temperature"], said["limit"]) == (["36500"], ["60000"])

    def test_at24_driver_reads_back_what_it_wrote(self, said: dict[str, list[str]]) -> None:
        assert said["eeprom"] == ["same", "256"]

    def test_read_of_an_address_where_nobody_is_fails(self, said: dict[str, list[str]]) -> None:
        assert said["nobody"] == ["refused"]

    def test_expander_is_found_with_its_lines_and_names(self, said: dict[str, list[str]]) -> None:
        assert said["chip"][0] == "16"
        assert said["names"] == ["line0", "line8"]

    def test_output_moves_the_input_it_is_wired_to(self, said: dict[str, list[str]]) -> None:
        assert said["wire"] == ["0", "1"]

    def test_every_edge_is_an_interrupt(self, said: dict[str, list[str]]) -> None:
        assert said["interrupts"][0] == "10"


class TestStockKernel:
    """The sensor by virtio_input of Debian's stock kernel."""

    def test_input_driver_gives_samples_that_lie_on_the_unit_sphere(self) -> None:
        look = "cat /sys/class/input/event*/device/name >&2; head -c 1920 /dev/input/event$(N)"
        look = look.replace(
            "$(N)", "$(grep -l accelerometer /sys/class/input/event*/device/name | tr -dc 0-9)"
        )

        done = execute("--device", f"{EXAMPLES}/accelerometer.py:Accelerometer,rate=50", command=look)

        assert done.returncode == 0, done
        assert b"pyvmm accelerometer" in done.stderr
        values: dict[int, int] = {}
        lengths = []
        for _, _, kind, code, value in struct.iter_unpack("<qqHHi", done.stdout):
            if kind == 3:
                values[code] = value
            elif kind == 0 and len(values) > 1:
                lengths.append(values.get(0, 0) ** 2 + values[2] ** 2)
        assert len(lengths) > 20
        assert all(abs(length - 1000**2) < 3000 for length in lengths)


def test_exception_in_a_device_ends_the_machine_and_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from pyvmm.virtio.device import VirtioDevice\n"
        "class Broken(VirtioDevice):\n"
        "    device_id = 4\n"
        "    name = 'broken'\n"
        "    queue_sizes = (8,)\n"
        "    def handle(self, queue, chain):\n"
        "        return chain.nonsense\n"
    )

    done: subprocess.CompletedProcess[bytes] = execute(
        "--device", f"{tmp_path}/broken.py:Broken", command="head -c 1 /dev/hwrng"
    )

    assert done.returncode == 6, done
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("pyvmm: device: broken0 failed in handle, ")
    assert "broken.py line 7: AttributeError" in last
    assert b"Traceback" not in done.stderr
