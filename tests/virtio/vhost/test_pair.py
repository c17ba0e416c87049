"""Our vhost-user front end against our back end: a device in another process, driven by the fake driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio import ids
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE, USED_BUFFER
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.channel import connect
from pyvmm.virtio.vhost.frontend import VhostUser
from tests.support.device_process import served

pytestmark = pytest.mark.timeout(60)

COUNTER = """
from pyvmm.virtio.device import VirtioDevice

class Counter(VirtioDevice):
    device_id = 42
    name = "counter"
    queue_sizes = (8, 8)
    config_fields = {"seen": "u32", "step": "u16"}
    config_writable = frozenset({"step"})

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.config.step = 1
        self.fail = fail

    def handle(self, queue, chain):
        if self.fail:
            raise RuntimeError("a defect")
        self.config.seen += self.config.step
        self.config_changed()
        data = chain.read(chain.readable_size)
        chain.write(data[::-1])
"""


def front_end(path: Path, identifier: int = 42, queues: int = 2, config: int | None = 6) -> VhostUser:
    return VhostUser(
        BackEndConnection(lambda: connect(str(path)), "the back end"),
        identifier,
        "test",
        queues=queues,
        config_size=config,
    )


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "counter.py"
    file.write_text(COUNTER)
    path = tmp_path / "s"
    with served(f"{file}:Counter", path=path):
        yield path


def test_entropy_when_served_by_another_process_fills_the_buffers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served("rng", path=path), FakeDriver(front_end(path, ids.ENTROPY, 1, 0)) as driver:
        first = driver.request(0, writable=[16, 4096])
        second = driver.request(0, writable=[16, 4096])

    assert (len(first), len(second)) == (4112, 4112)
    assert first != second


def test_requests_when_both_queues_are_used_come_back_with_an_interrupt(counter: Path) -> None:
    with FakeDriver(front_end(counter)) as driver:
        answers = [driver.request(n % 2, [b"abc%d" % n], [16]) for n in range(100)]
        driver.run(lambda: driver.interrupts)
        status = driver.read(mmio.INTERRUPT_STATUS)

    assert answers == [(b"abc%d" % n)[::-1] for n in range(100)]
    assert status & USED_BUFFER


def test_configuration_when_the_device_changes_it_is_read_anew_with_an_interrupt(counter: Path) -> None:
    with FakeDriver(front_end(counter)) as driver:
        before = driver.config(0, 4)
        driver.request(0, [b"x"], [1])
        driver.run(lambda: driver.config(0, 4) != before)
        driver.run(lambda: driver.read(mmio.INTERRUPT_STATUS) & CONFIG_CHANGE)

        assert (before, driver.config(0, 4)) == (0, 1)


def test_configuration_when_the_driver_writes_it_only_what_the_device_allows_is_changed(
    counter: Path,
) -> None:
    with FakeDriver(front_end(counter)) as driver:
        driver.write(mmio.CONFIG + 4, 2, 5)
        driver.write(mmio.CONFIG, 4, 77)

        assert (driver.config(0, 4), driver.config(4, 2)) == (0, 5)


def test_configuration_when_its_size_is_not_known_is_as_long_as_the_back_end_allows(counter: Path) -> None:
    device = front_end(counter, config=None)
    with FakeDriver(device) as driver:
        driver.write(mmio.CONFIG + 4, 2, 5)

        assert (len(device.config), driver.config(4, 2)) == (256, 5)


def test_reset_when_the_driver_begins_anew_serves_from_the_first_entry(counter: Path) -> None:
    with FakeDriver(front_end(counter)) as driver:
        for _ in range(5):
            assert driver.request(0, [b"ab"], [2]) == b"ba"
            driver.probe()

        assert driver.request(1, [b"cd"], [2]) == b"dc"


def test_front_ends_one_after_the_other_find_the_device_as_after_power_on(counter: Path) -> None:
    for _ in range(3):
        with FakeDriver(front_end(counter)) as driver:
            assert driver.request(0, [b"ab"], [2]) == b"ba"


def test_save_when_rings_run_tells_their_position_and_holds_them_until_the_machine_goes_on(
    counter: Path,
) -> None:
    with FakeDriver(front_end(counter)) as driver:
        for _ in range(3):
            driver.request(0, [b"ab"], [2])
        state = driver.transport.save()
        ring = driver.queues[0]
        ring.add([b"cd"], [2])
        ring.kick()
        with pytest.raises(TimeoutError):
            driver.run(ring.collect, timeout=0.3)
        driver.transport.resume()
        done: list[Any] = []
        driver.run(lambda: done.extend(ring.collect()) or done)
        after = ring.data(done[0])
        queue = state["device"]["queues"][0]  # type: ignore[index]

    assert (queue["next_avail"], after) == (3, b"dc")


def test_load_when_a_state_was_saved_goes_on_where_it_stood(counter: Path) -> None:
    with FakeDriver(front_end(counter)) as driver:
        for _ in range(3):
            driver.request(0, [b"ab"], [2])
        state = driver.transport.save()
        driver.transport.load(state)

        assert driver.request(0, [b"cd"], [2]) == b"dc"


def test_back_end_when_it_goes_away_needs_a_reset_and_says_so_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    with served("rng", path=path) as process, FakeDriver(front_end(path, ids.ENTROPY, 1, 0)) as driver:
        process.kill()
        driver.run(lambda: driver.status & f.DEVICE_NEEDS_RESET)
        pulses = driver.interrupts
        driver.run()
        driver.write(mmio.STATUS, 4, 0)

    said = capfd.readouterr().err
    assert pulses == 1
    assert said.count("closed the connection") == 1, said


def test_save_when_the_back_end_has_gone_away_gives_a_state_that_needs_a_reset(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served("rng", path=path) as process, FakeDriver(front_end(path, ids.ENTROPY, 1, 0)) as driver:
        process.kill()
        driver.run(lambda: driver.status & f.DEVICE_NEEDS_RESET)
        state = driver.transport.save()
        driver.transport.resume()

        assert state["needs_reset"] and driver.status & f.DEVICE_NEEDS_RESET


def test_driver_when_it_starts_a_device_whose_back_end_is_gone_is_told_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    with (
        served("rng", path=path) as process,
        FakeDriver(front_end(path, ids.ENTROPY, 1, 0), start=False) as driver,
    ):
        process.kill()
        process.wait()
        with pytest.raises(AssertionError, match="did not start"):
            driver.probe()
        driver.run()

    assert capfd.readouterr().err.count("\n") == 1


def test_device_of_the_users_when_it_has_a_defect_ends_its_process_and_nothing_else(tmp_path: Path) -> None:
    file, path = tmp_path / "counter.py", tmp_path / "s"
    file.write_text(COUNTER)
    with served(f"{file}:Counter,fail=on", path=path) as process, FakeDriver(front_end(path)) as driver:
        driver.queues[0].add([b"x"], [1])
        driver.queues[0].kick()
        driver.run(lambda: driver.status & f.DEVICE_NEEDS_RESET)
        process.wait(20)
        assert process.stderr is not None
        said = process.stderr.read()

    assert process.returncode == 6
    assert "counter failed" in said
    assert "a defect" in said
    assert "Traceback" not in said
