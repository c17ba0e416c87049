"""From the options to the tools: names, files, and what stands nearer to the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.errors import ConfigError
from pyvmm.testing import FakeDriver
from pyvmm.virtio.tools.install import Tools
from pyvmm.virtio.tools.record import Recording
from tests.virtio.tools.devices import Shout


class Bench:
    """Two devices of one kind and one of another, as a machine has them."""

    def __init__(self) -> None:
        self.external = False
        self.drivers: dict[str, FakeDriver] = {}

    def install(self, **keys: object) -> None:
        self.close()
        devices = [Shout(), Shout(), Shout()]
        for device, name in zip(devices, ("shout0", "shout1", "other0"), strict=True):
            device.name = name
            device.external = self.external
        tools = Tools(Config(kernel="k", **keys), devices)
        for device in devices:
            observers = tools.observers(device)
            self.drivers[device.name] = FakeDriver(device, start=False, observers=observers)
        tools.close()

    def use(self) -> None:
        for driver in self.drivers.values():
            driver.probe()
            driver.request(0, [b"x"], [1])

    def close(self) -> None:
        while self.drivers:
            self.drivers.popitem()[1].close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize(
    ("name", "traced"),
    [("shout1", {"shout1"}), ("shout", {"shout0", "shout1"}), ("all", {"shout0", "shout1", "other0"})],
)
def test_name_is_a_device_a_kind_or_all(bench: Bench, tmp_path: Path, name: str, traced: set[str]) -> None:
    bench.install(trace_device=f"{name}={tmp_path}/trace")
    bench.use()

    lines = (tmp_path / "trace").read_text().splitlines()
    assert {line.partition("] ")[2].split()[0] for line in lines} == traced


def test_recording_has_what_the_device_did_and_the_trace_what_the_driver_sees(
    bench: Bench, tmp_path: Path
) -> None:
    bench.install(
        trace_device=f"shout0={tmp_path}/trace", inject="shout0:short-write", record=f"shout0={tmp_path}/r"
    )
    bench.drivers["shout0"].probe()
    told = bench.drivers["shout0"].request(0, [b"abcd"], [4])
    bench.drivers["shout0"].close()

    results = [entry.result() for entry in Recording(str(tmp_path / "r")) if entry.kind == 4]
    assert results == [(4, b"ABCD")]
    assert len(told) < 4
    assert f"head 0: {len(told)} written in" in (tmp_path / "trace").read_text()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"trace_device": "net0"},
            "--trace-device: no device is called 'net0'; there are shout0, shout1, other0",
        ),
        ({"inject": "net0:delay=1s"}, "--inject: no device is called 'net0'"),
        ({"inject": "shout0:pain"}, "--inject shout0: 'pain' is no fault; the faults are"),
        ({"record": "shout0"}, "--record shout0: name a file, too"),
        ({"record": "shout=f"}, "shout is shout0, shout1; a recording has one device"),
    ],
)
def test_what_is_wrong_is_one_sentence(bench: Bench, keys: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.install(**keys)

    assert sentence in str(caught.value)


def test_queues_served_elsewhere_can_be_traced_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    bench.external = True

    bench.install(trace_device=f"shout0={tmp_path}/trace")
    for keys in ({"inject": "shout0:delay=1s"}, {"record": f"shout0={tmp_path}/r"}):
        with pytest.raises(ConfigError, match="served outside this process"):
            bench.install(**keys)
