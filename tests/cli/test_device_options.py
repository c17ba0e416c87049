"""``pyvmm run --device`` and the tools' options: what is wrong is one line, told before the guest starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.main import main

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).resolve().parents[2]
PASSED = 32
DEVICE = f"{ROOT}/examples/gpio_expander.py:GpioExpander"


def run(*options: str) -> int:
    """A guest that ends at once by itself."""
    firmware = str(ROOT / "firmware" / "x86_64" / "bin" / "exit.bin")
    return main(["run", "--firmware", firmware, "--console", "none", "--timeout", "30", *options])


def test_guest_with_a_device_of_ones_own_that_is_traced_and_recorded_runs(tmp_path: Path) -> None:
    traced = ["--trace-device", f"all={tmp_path}/trace", "--record", f"gpio0={tmp_path}/record"]

    assert run("--device", f"{DEVICE},lines=8", *traced, "--inject", "gpio:delay=1ms") == PASSED

    assert (tmp_path / "record").stat().st_size > 16
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", f"{DEVICE}s"], "device classes in it: GpioExpander"),
        (["--device", f"{DEVICE},lines=99"], "ValueError: 99 lines; 1 to 64 are possible"),
        (["--device", f"{DEVICE},pins=9"], "'pins' is unknown; it knows lines, wires"),
        (["--device", "gpio.py:Gpio"], "there is no such Python file"),
        (
            ["--rng", "--trace-device", "disk0"],
            "no device is called 'disk0'; there are rng0, and 'all' for all",
        ),
        (["--trace-device", "all"], "no device is called 'all'; there are no virtio devices"),
        (["--rng", "--inject", "rng0:explode"], "'explode' is no fault; the faults are drop-kick"),
        (["--rng", "--inject", "rng0"], "write NAME:FAULT"),
        (["--rng", "--record", "rng0"], "name a file, too: --record rng0=FILE"),
    ],
)
def test_what_is_wrong_is_one_line_and_code_65(
    options: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*options) == 65

    said = capfd.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_file_that_cannot_be_written_is_one_line_and_code_64(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--rng", "--record", "rng0=/nowhere/record") == 64

    assert "/nowhere/record cannot be written: No such file" in capfd.readouterr().err
