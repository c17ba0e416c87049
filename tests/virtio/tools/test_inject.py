"""Each fault as its driver meets it."""

from __future__ import annotations

import pytest

from pyvmm.errors import ConfigError
from pyvmm.testing import FakeDriver
from pyvmm.virtio.features import DEVICE_NEEDS_RESET
from pyvmm.virtio.tools.inject import Injector, parse
from pyvmm.virtio.transport.mmio import QUEUE_NOTIFY
from tests.virtio.tools.devices import Shout


def disturbed(words: str) -> tuple[FakeDriver, Injector]:
    device = Shout()
    _, faults, seed = parse(f"shout:{words}")
    injector = Injector(device, faults, seed)
    return FakeDriver(device, observers=[injector]), injector


def lengths(words: str, count: int = 40) -> list[int]:
    """What the driver is told of answers of 8 bytes."""
    driver, _ = disturbed(words)
    with driver:
        return [len(driver.request(0, [b"12345678"], [8])) for _ in range(count)]


def test_dropped_kick_leaves_the_request_where_it_is_until_the_next() -> None:
    driver, injector = disturbed("drop-kick=0.5,seed=1")
    with driver:
        waiting = []
        for _ in range(6):
            driver.queues[0].add([b"x"], [1])
            driver.write(QUEUE_NOTIFY, 4, 0)  # also where the device asks for no kick
            driver.run()
            driver.queues[0].collect()
            waiting.append(len(driver.queues[0].pending))

    assert 0 in waiting
    assert max(waiting) > 0
    assert injector.count["drop-kick"] > 0


def test_delayed_answers_come_late_and_in_order() -> None:
    driver, _ = disturbed("delay=30ms")
    with driver:
        began = driver.loop.clock()
        requests = [driver.queues[0].add([b"x"], [1]) for _ in range(3)]
        driver.queues[0].kick()
        driver.run()
        at_once = driver.queues[0].collect()
        done: list[object] = []
        driver.run(lambda: done.extend(driver.queues[0].collect()) or len(done) == 3)
        passed = driver.loop.clock() - began

    assert (at_once, done) == ([], requests)
    assert passed >= 0.03


def test_delayed_answer_when_the_driver_resets_never_comes() -> None:
    driver, _ = disturbed("delay=10ms")
    with driver:
        driver.queues[0].add([b"x"], [1])
        driver.queues[0].kick()
        driver.run()
        driver.probe()
        end = driver.loop.clock() + 0.03
        driver.run(lambda: driver.loop.clock() > end)

        assert driver.queues[0].collect() == []


def test_bad_used_id_is_one_the_driver_never_gave() -> None:
    driver, _ = disturbed("bad-used-id")
    with driver:
        driver.queues[0].add([b"x"], [1])
        driver.queues[0].kick()
        driver.run()

        with pytest.raises(AssertionError, match="completed 8, which the driver did not make available"):
            driver.queues[0].collect()


def test_short_write_is_told_shorter_than_it_was() -> None:
    told = lengths("short-write=0.5")

    assert max(told) == 8
    assert min(told) < 8


def test_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert lengths("short-write=0.5,seed=7") == lengths("short-write=0.5,seed=7")
    assert lengths("short-write=0.5,seed=7") != lengths("short-write=0.5,seed=8")


def test_needs_reset_comes_once_at_its_time() -> None:
    driver, injector = disturbed("needs-reset@t=20ms")
    with driver:
        before = driver.status & DEVICE_NEEDS_RESET
        driver.run(lambda: driver.status & DEVICE_NEEDS_RESET)
        interrupted = driver.acknowledge()
        driver.probe()
        end = driver.loop.clock() + 0.03
        driver.run(lambda: driver.loop.clock() > end)

        assert (before, interrupted & 2, driver.request(0, [b"x"], [1])) == (0, 2, b"X")
    assert injector.count["needs-reset"] == 1


def test_fault_with_a_time_is_not_there_before() -> None:
    assert lengths("short-write@t=1h") == [8] * 40


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("net0", "write NAME:FAULT"),
        ("net0:", "write NAME:FAULT"),
        ("net0:explode", "'explode' is no fault; the faults are drop-kick"),
        ("net0:delay", "needs a time: delay=TIME"),
        ("net0:delay=soon", "not a duration"),
        ("net0:drop-kick=2", "'2' is no probability"),
        ("net0:drop-kick=x", "'x' is no probability"),
        ("net0:needs-reset=1", "takes no value"),
        ("net0:needs-reset@3s", "t=TIME"),
        ("net0:seed=x,drop-kick", "seed=x is not a whole number"),
        ("net0:seed=1", "there is no fault"),
        ("net0:drop-kick,drop-kick", "given twice"),
    ],
)
def test_words_that_mean_nothing_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
