"""The balloon, driven by the fake driver: pages returned to the host, statistics, bad input. Section 5.5."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.config import DeviceOptions
from pyvmm.errors import ConfigError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous, Memfd
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.balloon import steps
from pyvmm.virtio.balloon.device import (
    DEFLATE,
    F_DEFLATE_ON_OOM,
    F_PAGE_REPORTING,
    F_STATS_VQ,
    INFLATE,
    MAX_PAGES,
    PAGE,
    REPORTING,
    STATS,
    STEP_PAGES,
    Balloon,
    runs,
)
from pyvmm.virtio.options import make_device
from pyvmm.virtio.ring.descriptor import WRITE
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE

BASE = 1 << 20
SIZE = 16 << 20
#: The page the tests give away, well behind what the driver lays there.
PAGE_NUMBER = (BASE + SIZE) // PAGE - 16
ROM = 0xF000_0000


def memory() -> GuestMemory:
    """RAM of both kinds with a gap between, and a ROM."""
    rom = Anonymous(PAGE)
    rom.buffer[:] = b"R" * PAGE
    return GuestMemory(
        [
            Region(BASE, SIZE, Anonymous(SIZE)),
            Region(64 << 20, 1 << 20, Memfd(1 << 20), name="shared"),
            Region(ROM, PAGE, rom, readonly=True, name="rom"),
        ]
    )


def inflate(driver: FakeDriver, *pages: int, queue: int = INFLATE) -> None:
    driver.request(queue, [struct.pack(f"<{len(pages)}I", *pages)])


def mark(driver: FakeDriver, page: int, count: int = 1) -> None:
    driver.memory.write(page * PAGE, b"x" * count * PAGE)


def is_marked(driver: FakeDriver, page: int) -> bool:
    return driver.memory.read(page * PAGE, PAGE) == b"x" * PAGE


# Inflate and deflate


@pytest.mark.parametrize("page", [PAGE_NUMBER, (64 << 20) // PAGE], ids=["private", "shared"])
def test_page_when_inflated_is_given_back_to_the_host(page: int) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        mark(driver, page)
        mark(driver, page + 1)

        inflate(driver, page)

        assert driver.memory.read(page * PAGE, PAGE) == bytes(PAGE)
        assert is_marked(driver, page + 1)
        assert driver.device.discarded == PAGE


def test_pages_when_in_any_order_and_twice_are_each_given_back_once() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        first = PAGE_NUMBER
        mark(driver, first, 8)

        inflate(driver, first + 5, first, first + 1, first + 5, first)

        left = [is_marked(driver, first + n) for n in range(8)]
        assert left == [False, False, True, True, True, False, True, True]
        assert (driver.device.discarded, driver.device.refused) == (3 * PAGE, 0)


def test_runs_when_pages_repeat_and_neighbour_are_joined() -> None:
    assert list(runs([9, 2, 1, 2, 3, 7])) == [(1, 3), (7, 1), (9, 1)]
    assert list(runs([])) == []


def test_page_when_deflated_is_usable_again() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        inflate(driver, PAGE_NUMBER)
        inflate(driver, PAGE_NUMBER, queue=DEFLATE)

        mark(driver, PAGE_NUMBER)
        assert is_marked(driver, PAGE_NUMBER) and driver.device.refused == 0


# Bad input, row 22


@pytest.mark.parametrize(
    "page", [0, (BASE + SIZE) // PAGE, 0xFFFF_FFFF, ROM // PAGE], ids=["below", "gap", "last", "rom"]
)
@pytest.mark.parametrize("queue", [INFLATE, DEFLATE])
def test_page_outside_ram_when_named_is_counted_and_the_others_served(queue: int, page: int) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        mark(driver, PAGE_NUMBER)

        inflate(driver, page, PAGE_NUMBER, queue=queue)

        rom = page == ROM // PAGE
        assert driver.device.refused == (0 if rom and queue == DEFLATE else 1)
        assert is_marked(driver, PAGE_NUMBER) == (queue == DEFLATE)
        assert driver.memory.read(ROM, PAGE) == b"R" * PAGE


def test_run_that_begins_in_ram_and_leaves_it_is_served_as_far_as_it_is_ram() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        last = (BASE + SIZE) // PAGE - 1
        mark(driver, last)

        inflate(driver, last, last + 1)

        assert not is_marked(driver, last) and driver.device.refused == 1


@pytest.mark.parametrize("size", [1, 3, 5, 4097])
@pytest.mark.parametrize("queue", [INFLATE, DEFLATE])
def test_request_when_its_length_is_no_multiple_of_four_is_refused_whole(queue: int, size: int) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        mark(driver, PAGE_NUMBER)
        data = struct.pack("<I", PAGE_NUMBER) * (size // 4 + 1)

        driver.request(queue, [data[:size]])

        assert is_marked(driver, PAGE_NUMBER) and driver.device.refused == 1


def test_request_when_it_names_too_many_pages_is_refused_and_the_device_goes_on() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        ring = driver.queues[INFLATE]
        address = driver.allocate(4 * MAX_PAGES)
        ring.add_buffers([(address, 4 * MAX_PAGES, 0)] * 2)
        ring.kick()
        driver.run()
        ring.collect()

        inflate(driver, PAGE_NUMBER)
        assert driver.device.refused == 1
        assert driver.device.discarded == PAGE


def test_request_when_empty_or_writable_alone_comes_back() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        assert driver.request(INFLATE, writable=[64]) == b""
        assert driver.device.discarded == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(PAGE_NUMBER, (BASE + SIZE) // PAGE + 3),
            st.integers(ROM // PAGE - 2, ROM // PAGE + 2),
            st.integers(0, BASE // PAGE - 1),  # what lies between are the rings
            st.integers((BASE + SIZE) // PAGE, 0xFFFF_FFFF),
        ),
        max_size=40,
    )
)
def test_inflate_whatever_it_names_clears_those_pages_of_ram_and_no_others(pages: list[int]) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        last = (BASE + SIZE) // PAGE
        mark(driver, PAGE_NUMBER, last - PAGE_NUMBER)

        inflate(driver, *pages)

        kept = [page for page in range(PAGE_NUMBER, last) if is_marked(driver, page)]
        assert kept == [page for page in range(PAGE_NUMBER, last) if page not in pages]
        assert driver.memory.read(ROM, PAGE) == b"R" * PAGE


# Requests that take long


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by each discard; by the device's clock, two steps take a turn's time."""
    calls: list[int] = []
    discard = GuestMemory.discard

    def counted(self: GuestMemory, gpa: int, size: int) -> int:
        calls.append(gpa)
        return discard(self, gpa, size)

    monkeypatch.setattr(GuestMemory, "discard", counted)
    now = iter(range(1 << 20))
    monkeypatch.setattr(steps, "monotonic", lambda: next(now) * steps.TURN * 0.4)
    return calls


def name_many(driver: FakeDriver) -> int:
    """Post one request with as many pages as it may have, no two of them adjacent; how many those are."""
    # What lies below is the driver's own.
    pages = list(range((BASE + SIZE // 2) // PAGE, (BASE + SIZE) // PAGE, 2)) * 16
    pages = pages[:MAX_PAGES]
    driver.queues[INFLATE].add([struct.pack(f"<{len(pages)}I", *pages)])
    driver.queues[INFLATE].kick()
    return len(pages)


def turns(driver: FakeDriver, calls: list[int], until: Callable[[], object]) -> list[int]:
    """The discards of each turn of the loop."""
    found = []
    while not until():
        before = len(calls)
        driver.loop.run_once(0)
        found.append(len(calls) - before)
    return found


def test_pages_when_one_request_names_thousands_are_dealt_with_over_many_turns(calls: list[int]) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        count = name_many(driver)

        found = turns(driver, calls, driver.queues[INFLATE].collect)

        assert sum(found) == count > 20 * STEP_PAGES
        assert max(found) <= 2 * STEP_PAGES


def test_reset_when_a_request_is_under_way_ends_it(calls: list[int]) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        name_many(driver)
        driver.loop.run_once(0)
        before = len(calls)

        driver.probe()
        driver.run()

        assert 0 < before == len(calls)
        inflate(driver, PAGE_NUMBER)
        assert driver.device.discarded == (before + 1) * PAGE


def test_state_when_a_request_is_under_way_is_taken_over(calls: list[int]) -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        mark(driver, (BASE + SIZE) // PAGE - 2)
        name_many(driver)
        driver.loop.run_once(0)
        state = driver.transport.save()
        left = is_marked(driver, (BASE + SIZE) // PAGE - 2)

        driver.replace(Balloon, state)
        driver.run()

        assert left and not is_marked(driver, (BASE + SIZE) // PAGE - 2)
        assert len(driver.queues[INFLATE].collect()) == 1


def test_free_pages_when_a_long_range_does_not_begin_at_a_page_are_all_returned() -> None:
    big = GuestMemory([Region(BASE, 64 << 20, Anonymous(64 << 20))])
    with FakeDriver(Balloon(reporting=True), memory=big) as driver:
        first, pages = BASE + (40 << 20), (20 << 20) // PAGE
        driver.memory.write(first, b"x" * pages * PAGE)
        driver.queues[REPORTING].add_buffers([(first + 8, pages * PAGE - 16, WRITE)])
        driver.queues[REPORTING].kick()
        driver.run()

        assert driver.device.discarded == (pages - 2) * PAGE
        assert driver.memory.read(first + PAGE, (pages - 2) * PAGE) == bytes((pages - 2) * PAGE)


# Target


def test_target_when_set_is_told_by_a_configuration_interrupt() -> None:
    with FakeDriver(Balloon(8 << 20), memory=memory()) as driver:
        before = driver.config(0, 4), driver.interrupts

        driver.device.target = (64 << 20) + 5
        cause = driver.acknowledge()

        assert before == ((8 << 20) // PAGE, 0)
        assert (driver.config(0, 4) * PAGE, driver.interrupts, cause) == (64 << 20, 1, CONFIG_CHANGE)


@pytest.mark.parametrize("size", [-1, 1 << 44])
def test_target_when_out_of_range_is_refused(size: int) -> None:
    balloon = Balloon()

    with pytest.raises(ValueError, match="balloon"):
        balloon.target = size


def test_actual_when_the_driver_writes_it_is_read_in_bytes_and_the_target_is_its_own() -> None:
    with FakeDriver(Balloon(8 << 20), memory=memory()) as driver:
        driver.write(mmio.CONFIG + 4, 4, 5)
        driver.write(mmio.CONFIG, 4, 77)

        assert (driver.device.actual, driver.device.target) == (5 * PAGE, 8 << 20)


# Statistics


def stat(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<HQ", tag, value) for tag, value in pairs)


def test_stats_when_asked_for_come_by_name() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        balloon, ring = driver.device, driver.queues[STATS]
        request = ring.add([stat((4, 1000), (5, 2000))])
        ring.kick()
        driver.run()
        first = dict(balloon.stats), request.done

        balloon.ask_stats()
        driver.run()
        returned = ring.collect()
        ring.add([stat((4, 900), (77, 1))])
        ring.kick()
        driver.run()

        assert first == ({"free_memory": 1000, "total_memory": 2000}, False)
        assert returned == [request]
        assert (balloon.stats, balloon.reports) == ({"free_memory": 900}, 2)


def test_stats_when_an_interval_is_given_are_asked_for_again_and_again() -> None:
    with FakeDriver(Balloon(stats=0.01), memory=memory()) as driver:
        ring = driver.queues[STATS]
        for n in range(3):
            ring.add([stat((0, n))])
            ring.kick()
            driver.run(ring.collect)

        assert driver.device.stats == {"swap_in": 2}


def test_stats_when_their_length_is_wrong_are_refused() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        driver.request(STATS, [b"x" * 15])
        driver.request(STATS, [bytes(1 << 13)])

        assert (driver.device.stats, driver.device.refused) == ({}, 2)


def test_stats_when_the_driver_gives_many_buffers_keeps_them_and_the_loop_rests() -> None:
    with FakeDriver(Balloon(), memory=memory()) as driver:
        ring = driver.queues[STATS]
        requests = [ring.add([stat((0, n))]) for n in range(4)]
        ring.kick()
        driver.run()

        driver.device.ask_stats()
        driver.run()

        assert ring.collect() == requests[:1]


# Free page reporting


def test_free_pages_when_reported_are_given_back_and_nothing_beside_them() -> None:
    with FakeDriver(Balloon(reporting=True), memory=memory()) as driver:
        mark(driver, PAGE_NUMBER - 1, 6)
        request = driver.queues[REPORTING].add_buffers(
            [(PAGE_NUMBER * PAGE, 2 * PAGE, WRITE), ((PAGE_NUMBER + 3) * PAGE + 1, PAGE, WRITE)]
        )
        driver.queues[REPORTING].kick()
        driver.run()

        driver.queues[REPORTING].collect()
        left = [is_marked(driver, PAGE_NUMBER + n) for n in range(-1, 5)]
        assert request.done and request.written == 0
        assert left == [True, False, False, True, True, True]


def test_free_pages_when_across_a_seam_of_regions_are_given_back() -> None:
    low, high = Anonymous(SIZE), Memfd(1 << 20)
    seam = GuestMemory([Region(BASE, SIZE, low), Region(BASE + SIZE, 1 << 20, high)])
    with FakeDriver(Balloon(reporting=True), memory=seam) as driver:
        page = (BASE + SIZE) // PAGE
        mark(driver, page - 1, 2)
        driver.queues[REPORTING].add_buffers([((page - 1) * PAGE, 2 * PAGE, WRITE)])
        driver.queues[REPORTING].kick()
        driver.run()

        assert not is_marked(driver, page - 1) and not is_marked(driver, page)


@pytest.mark.parametrize("stats", [True, False])
def test_reporting_queue_when_the_driver_counts_only_what_it_negotiated_is_found(stats: bool) -> None:
    features = f.F_VERSION_1 | F_PAGE_REPORTING | (F_STATS_VQ if stats else 0)
    index = 3 if stats else 2
    with FakeDriver(Balloon(reporting=True), memory=memory(), features=features, start=False) as driver:
        driver.write(mmio.STATUS, 4, f.ACKNOWLEDGE | f.DRIVER)
        assert driver.negotiate(features)
        for queue in range(index + 1):
            driver.set_up_queue(queue)
        driver.driver_ok()
        mark(driver, PAGE_NUMBER)

        assert driver.queues[index].size >= 32, "Linux does not take a smaller one"
        driver.queues[index].add_buffers([(PAGE_NUMBER * PAGE, PAGE, WRITE)])
        driver.queues[index].kick()
        driver.run()

        assert not is_marked(driver, PAGE_NUMBER)


def test_describe_when_pages_are_named_says_the_first() -> None:
    balloon = Balloon()

    assert balloon.describe(INFLATE, struct.pack("<II", 16, 9)) == "inflate, first page at 0x10000"
    assert balloon.describe(DEFLATE, struct.pack("<I", 1)) == "deflate, first page at 0x1000"
    assert balloon.describe(STATS, b"") == balloon.describe(INFLATE, b"x") == ""


# The option


@pytest.mark.parametrize(
    ("values", "features", "target"),
    [
        ({}, F_STATS_VQ, 0),
        ({"target": "64M"}, F_STATS_VQ, 64 << 20),
        ({"deflate-on-oom": True, "stats": "5s"}, F_STATS_VQ | F_DEFLATE_ON_OOM, 0),
        ({"reporting": True}, F_STATS_VQ | F_PAGE_REPORTING, 0),
    ],
)
def test_words_when_right_make_the_device(values: dict[str, str | bool], features: int, target: int) -> None:
    device = make_device(DeviceOptions("balloon", values))

    assert isinstance(device, Balloon)
    assert (device.features, device.target) == (features, target)


@pytest.mark.parametrize(
    "values", [{"target": "x"}, {"target": "32T"}, {"stats": "0"}, {"stats": True}, {"size": "5"}]
)
def test_words_when_wrong_are_refused(values: dict[str, str | bool]) -> None:
    with pytest.raises(ConfigError, match="--balloon"):
        make_device(DeviceOptions("balloon", values))
