"""Every device type, saved in the middle of its work and continued by a fresh one of its kind."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyvmm.config import DEVICE_KINDS, DeviceOptions
from pyvmm.testing import DriverRequest, FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio import options as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.errors import QueueError, StateError
from pyvmm.virtio.vsock import packet as p

ALL = sorted(("balloon", "disk", "hvc", "net", "rng", "vsock"))
#: Kinds that are not a device type of ours, or whose state another process has.
OTHERS = {"device", "share", "vhost_user"}
SECTOR = 512
_switches = itertools.count()


class Bench(NamedTuple):
    """One kind: how to make a device of it, twice the same, and what to do with it."""

    words: dict[str, str | bool]
    folder: Path

    def make(self, kind: str) -> VirtioDevice:
        (device,) = spec.make_devices([DeviceOptions(kind, self.words)])
        return device


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(kind: str, tmp_path: Path) -> Bench:
    return made(kind, tmp_path)


def made(kind: str, tmp_path: Path) -> Bench:
    words: dict[str, dict[str, str | bool]] = {
        "balloon": {"target": "1M"},
        "disk": {"path": str(tmp_path / "image")},
        "hvc": {"to": f"append:{tmp_path / 'out'}"},
        "net": {"type": f"switch:save{next(_switches)}"},
        "rng": {},
        "vsock": {"cid": "5", "path": str(tmp_path / "v")},
    }
    (tmp_path / "image").write_bytes(bytes(range(256)) * 256)
    return Bench(words[kind], tmp_path)


@pytest.fixture
def driver(kind: str, bench: Bench) -> Iterator[FakeDriver]:
    with FakeDriver(bench.make(kind)) as driver:
        yield driver


def saved(driver: FakeDriver) -> dict[str, Any]:
    """The state as it comes out of a file."""
    state: dict[str, Any] = json.loads(json.dumps(driver.transport.save()))
    return state


# What each device has under way when it is saved: requests the driver made and was not answered, and those
# it made without a kick. ``goes_on`` says whether the fresh device has dealt with them.


def begin(kind: str, driver: FakeDriver) -> list[DriverRequest]:
    if kind == "rng":
        driver.request(0, writable=[8])
        return [driver.queues[0].add(writable=[64])]
    if kind == "disk":
        driver.request(0, [struct.pack("<IIQ", 0, 0, 1)], [SECTOR, 1])
        return [driver.queues[0].add([struct.pack("<IIQ", 0, 0, 2)], [SECTOR, 1])]
    if kind == "balloon":
        held = driver.queues[2].add([struct.pack("<HQ", 4, 77)])
        driver.queues[2].kick()
        driver.run()
        page = driver.memory.regions[0].end // 4096 - 1
        driver.memory.write(page * 4096, b"x" * 4096)
        return [held, driver.queues[0].add([struct.pack("<I", page)])]
    if kind == "vsock":
        event = driver.queues[2].add(writable=[4])
        driver.queues[2].kick()
        for _ in range(20):
            driver.queues[0].add(writable=[p.HEADER_SIZE, 4096])
        driver.queues[0].kick()
        driver.queues[1].add([_connect(1)])
        driver.queues[1].kick()
        driver.run()
        return [event, driver.queues[1].add([_connect(2)])]
    if kind == "hvc":
        driver.queues[1].add([b"before "])
        driver.queues[1].kick()
        driver.run()
        return [driver.queues[1].add([b"after"])]
    assert kind == "net", f"{kind} has no scenario here"
    driver.queues[0].add(writable=[2048])
    driver.queues[0].kick()
    return [driver.queues[1].add([bytes(12) + b"\xff" * 12 + b"\x08\x00" + bytes(46)])]


def goes_on(kind: str, driver: FakeDriver, bench: Bench, waiting: list[DriverRequest]) -> None:
    for queue in driver.queues:
        queue.collect()
    if kind == "rng":
        assert waiting[0].written == 64
    elif kind == "disk":
        data = driver.queues[0].data(waiting[0])
        assert data == (bytes(range(256)) * 2) + b"\0"
    elif kind == "balloon":
        held, inflate = waiting
        address = driver.memory.regions[0].end - 4096
        assert inflate.done and driver.memory.read(address, 4096) == bytes(4096)
        assert driver.config(0, 4) == (1 << 20) // 4096
        assert not held.done and driver.device.stats == {"free_memory": 77}  # type: ignore[attr-defined]
        driver.device.ask_stats()  # type: ignore[attr-defined]
        driver.run()
        assert driver.queues[2].collect() == [held]
    elif kind == "vsock":
        event, packet = waiting
        assert packet.done and event.done and driver.queues[2].data(event) == bytes(4)
        assert 20 - len(driver.queues[0].pending) == 2, "one reset before, one after"
    elif kind == "hvc":
        assert waiting[0].done and (bench.folder / "out").read_bytes() == b"before after"
    else:
        assert waiting[0].done


def _connect(port: int) -> bytes:
    return p.HEADER.pack(5, p.CID_HOST, port, 80, 0, p.TYPE_STREAM, p.OP_REQUEST, 0, 1 << 18, 0)


def test_kinds_when_listed_are_all_here() -> None:
    assert set(ALL) == set(DEVICE_KINDS) - OTHERS


def test_device_when_saved_at_work_is_gone_on_with_by_a_fresh_one(
    kind: str, bench: Bench, driver: FakeDriver
) -> None:
    waiting = begin(kind, driver)
    features, status = driver.features, driver.status

    driver.replace(lambda: bench.make(kind), saved(driver))

    goes_on(kind, driver, bench, waiting)
    assert (driver.status, driver.device.runtime.driver_features) == (status, features)


def test_device_when_saved_twice_in_a_row_has_the_same_state(
    kind: str, bench: Bench, driver: FakeDriver
) -> None:
    begin(kind, driver)

    first = saved(driver)

    assert saved(driver) == first


def test_device_when_saved_before_its_driver_came_starts_afterwards(
    kind: str, bench: Bench, driver: FakeDriver
) -> None:
    driver.reset()

    driver.replace(lambda: bench.make(kind), saved(driver))
    driver.probe()

    goes_on(kind, driver, bench, begin_and_kick(kind, driver))


def begin_and_kick(kind: str, driver: FakeDriver) -> list[DriverRequest]:
    """As ``begin``, with nothing left undone; a socket device has no event to tell then."""
    waiting = begin(kind, driver)
    if kind == "vsock":
        driver.device._reset_event = True  # type: ignore[attr-defined]
        driver.device.runtime.run_queue(2)
    for queue in driver.queues:
        queue.kick()
    driver.run()
    return waiting


def test_device_when_saved_broken_is_reset_by_its_driver_and_starts_afresh(
    kind: str, bench: Bench, driver: FakeDriver
) -> None:
    if kind != "hvc":  # what it wrote stays written
        begin(kind, driver)
    driver.device.runtime.halt(QueueError("a ring that is broken"))
    driver.run()

    driver.replace(lambda: bench.make(kind), saved(driver))
    assert driver.status & f.DEVICE_NEEDS_RESET
    driver.probe()

    goes_on(kind, driver, bench, begin_and_kick(kind, driver))


@pytest.mark.parametrize("where", ["transport", "device", "queue"])
def test_state_when_of_another_version_is_refused(kind: str, driver: FakeDriver, where: str) -> None:
    state = saved(driver)
    part = {"transport": state, "device": state["device"], "queue": state["device"]["queues"][0]}[where]
    part["version"] = 99

    with pytest.raises(StateError, match="version 99"):
        driver.transport.load(state)

    driver.probe()


@pytest.mark.parametrize("lost", ["device", "queues", "config", "device_id"])
def test_state_when_a_part_is_missing_is_refused_in_one_sentence(
    kind: str, driver: FakeDriver, lost: str
) -> None:
    state = saved(driver)
    del (state if lost == "device" else state["device"])[lost]

    with pytest.raises(StateError):
        driver.transport.load(state)

    driver.probe()


# Each is what ``saved`` returned after ``begin`` when version 1 was new. They are never made again: when one
# cannot be loaded any more, that is a new version.
STATES = Path(__file__).with_name("states")


def older(kind: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((STATES / f"{kind}.json").read_text())
    return state


def parts(state: Any) -> Iterator[dict[str, Any]]:
    """Every part of *state* that has a version."""
    if isinstance(state, dict):
        if "version" in state:
            yield state
        for value in state.values():
            yield from parts(value)
    elif isinstance(state, list):
        for value in state:
            yield from parts(value)


@pytest.mark.parametrize("minor", ["older", "later"])
def test_state_of_another_minor_version_is_gone_on_with(
    kind: str, bench: Bench, driver: FakeDriver, minor: str
) -> None:
    waiting = begin(kind, driver)  # the same requests at the same addresses
    state = older(kind)
    found = list(parts(state))
    if minor == "later":
        for part in found:
            part["of_a_later_minor_version"] = 1

    driver.replace(lambda: bench.make(kind), state)

    assert len(found) >= 3, "the transport, the device, each queue"
    goes_on(kind, driver, bench, waiting)


@pytest.mark.parametrize("place", range(4))
def test_state_of_another_major_version_is_refused_wherever_it_is(
    kind: str, driver: FakeDriver, place: int
) -> None:
    state = older(kind)
    found = list(parts(state))
    found[min(place, len(found) - 1)]["version"] = 2

    with pytest.raises(StateError, match="the saved state has version 2, and this pyvmm reads 1"):
        driver.transport.load(state)


def test_keys_of_a_state_are_those_of_version_1(kind: str, driver: FakeDriver) -> None:
    begin(kind, driver)

    for part, was in zip(parts(saved(driver)), parts(older(kind)), strict=True):
        assert set(was) <= set(part), "a key that is saved no more is a new version"
