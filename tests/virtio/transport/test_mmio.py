"""The MMIO transport's registers and its status machine: virtio 1.2 sections 2.1, 2.2, 3.1, 4.2.2."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.errors import QueueError, StateError
from pyvmm.virtio.features import ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK
from pyvmm.virtio.ring import persist
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE, USED_BUFFER
from tests.support.rings import ALL, CONFIGURED, EVENTS, PLAIN, Configured, Copier, Pair, count

READY = ACKNOWLEDGE | DRIVER | FEATURES_OK


class Refusing(Pair):
    """Cannot start."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def started(self) -> None:
        raise self.error


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    with FakeDriver(Configured()) as driver:
        yield driver


@pytest.fixture
def idle() -> Iterator[FakeDriver]:
    """A driver that has done nothing yet."""
    with FakeDriver(Configured(), start=False) as driver:
        yield driver


def negotiated(driver: FakeDriver, features: int = ALL) -> None:
    """Up to FEATURES_OK."""
    driver.write(mmio.STATUS, 4, ACKNOWLEDGE)
    driver.write(mmio.STATUS, 4, ACKNOWLEDGE | DRIVER)
    assert driver.negotiate(features)


# Identity


def test_identity_is_that_of_the_specification(idle: FakeDriver) -> None:
    assert idle.read(mmio.MAGIC_VALUE) == int.from_bytes(b"virt", "little")
    assert idle.read(mmio.VERSION) == 2
    assert idle.read(mmio.DEVICE_ID) == Configured.device_id
    assert idle.read(mmio.VENDOR_ID) == int.from_bytes(b"PVMM", "little")


def test_features_when_selected_by_words_are_offered_and_beyond_them_none(idle: FakeDriver) -> None:
    assert idle.offered() == Configured.features | f.F_VERSION_1 | f.F_INDIRECT_DESC | f.F_EVENT_IDX
    for sel in (2, 3, 0xFFFF_FFFF):
        idle.write(mmio.DEVICE_FEATURES_SEL, 4, sel)
        assert idle.read(mmio.DEVICE_FEATURES) == 0


# Row 5: select, width, offset


@pytest.mark.parametrize("select", [2, 3, 0x7FFF, 0xFFFF_FFFF])
def test_queue_when_selected_beyond_the_last_does_not_exist(idle: FakeDriver, select: int) -> None:
    idle.write(mmio.QUEUE_SEL, 4, select)

    assert (idle.read(mmio.QUEUE_SIZE_MAX), idle.read(mmio.QUEUE_READY)) == (0, 0)
    idle.write(mmio.QUEUE_READY, 4, 1)
    idle.write(mmio.QUEUE_SIZE, 4, 4)
    idle.write(mmio.QUEUE_DESC_LOW, 4, 0x1000)
    assert idle.read(mmio.QUEUE_READY) == 0
    assert not any(queue.ready for queue in idle.device.runtime.queues)


@pytest.mark.parametrize("width", [1, 2, 8])
def test_register_when_accessed_in_another_width_reads_zero_and_stores_nothing(
    idle: FakeDriver, width: int
) -> None:
    for offset in range(0, mmio.CONFIG, 4):
        assert idle.read(offset, width) == 0
        idle.write(offset, width, 0x01)

    assert idle.status == 0
    assert idle.offered() & f.F_VERSION_1


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_register_when_accessed_unaligned_reads_zero_and_stores_nothing(idle: FakeDriver, shift: int) -> None:
    for offset in range(shift, mmio.CONFIG, 4):
        assert idle.read(offset) == 0
        idle.write(offset, 4, 0xFFFF_FFFF)

    assert idle.status == 0


def test_offsets_when_no_register_is_there_read_zero_and_store_nothing(idle: FakeDriver) -> None:
    known = {value for name, value in vars(mmio).items() if name.isupper() and isinstance(value, int)}
    unknown = [offset for offset in range(0, mmio.CONFIG, 4) if offset not in known]
    assert 0x0C0 in unknown and 0x028 in unknown
    for offset in unknown:
        idle.write(offset, 4, 0xFFFF_FFFF)
        assert idle.read(offset) == 0

    assert idle.status == 0


def test_odd_accesses_when_there_are_thousands_are_told_of_a_few_times(
    idle: FakeDriver, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3000):
        idle.read(0x0C0)
        idle.read(mmio.STATUS, 1)

    assert 1 <= count(capfd, "where no such register is") <= 6


def test_write_only_registers_when_read_give_zero(driver: FakeDriver) -> None:
    for offset in (
        mmio.QUEUE_SIZE,
        mmio.QUEUE_NOTIFY,
        mmio.INTERRUPT_ACK,
        mmio.QUEUE_DESC_LOW,
        mmio.QUEUE_SEL,
    ):
        assert driver.read(offset) == 0


# Row 4: after DRIVER_OK


def test_queue_registers_when_written_after_driver_ok_are_ignored(driver: FakeDriver) -> None:
    queue = driver.device.runtime.queues[0]
    before = persist.save(queue)
    driver.write(mmio.QUEUE_SEL, 4, 0)
    for offset in (
        mmio.QUEUE_SIZE,
        mmio.QUEUE_DESC_LOW,
        mmio.QUEUE_DESC_HIGH,
        mmio.QUEUE_DRIVER_LOW,
        mmio.QUEUE_DRIVER_HIGH,
        mmio.QUEUE_DEVICE_LOW,
        mmio.QUEUE_DEVICE_HIGH,
    ):
        driver.write(offset, 4, 0x10)
    driver.write(mmio.QUEUE_READY, 4, 0)

    assert persist.save(queue) == before
    assert driver.request(0, [b"still"], [8]) == b"still"


def test_queue_when_not_ready_at_activation_is_never_served(idle: FakeDriver) -> None:
    negotiated(idle)
    first = idle.set_up_queue(0)
    idle.write(mmio.QUEUE_READY, 4, 0)
    second = idle.set_up_queue(1)
    idle.driver_ok()
    unserved, served = first.add([b"a"], [8]), second.add([b"b"], [8])
    for index in (0, 1):
        idle.write(mmio.QUEUE_NOTIFY, 4, index)
    idle.run()
    first.collect()
    second.collect()

    assert (unserved.done, served.done) == (False, True)


def test_queue_ready_when_written_reads_as_written_before_driver_ok(idle: FakeDriver) -> None:
    negotiated(idle)
    idle.set_up_queue(0)
    ready = [idle.read(mmio.QUEUE_READY)]
    idle.write(mmio.QUEUE_READY, 4, 0)

    assert [*ready, idle.read(mmio.QUEUE_READY)] == [1, 0]


@pytest.mark.parametrize(
    ("register", "value"), [(mmio.QUEUE_SIZE, 3), (mmio.QUEUE_DESC_LOW, 8), (mmio.QUEUE_DEVICE_HIGH, 1 << 20)]
)
def test_queue_when_set_up_wrongly_shows_needs_reset_at_activation_and_a_reset_helps(
    idle: FakeDriver, register: int, value: int
) -> None:
    negotiated(idle)
    idle.set_up_queue(0)
    idle.write(register, 4, value)
    idle.driver_ok()

    assert idle.status == READY | DRIVER_OK | DEVICE_NEEDS_RESET
    assert idle.acknowledge() == CONFIG_CHANGE
    idle.probe()
    assert idle.request(0, [b"again"], [8]) == b"again"


# Row 23: the status machine


@pytest.mark.parametrize(
    ("writes", "want"),
    [
        ([DRIVER], 0),
        ([FEATURES_OK], 0),
        ([DRIVER_OK], 0),
        ([ACKNOWLEDGE, ACKNOWLEDGE | FEATURES_OK], ACKNOWLEDGE),
        ([ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK], ACKNOWLEDGE | DRIVER),
        ([0xF0 & ~FAILED], 0),
        ([DEVICE_NEEDS_RESET], 0),
        ([ACKNOWLEDGE | DRIVER], ACKNOWLEDGE | DRIVER),
        ([0xFFFF_FF00 | ACKNOWLEDGE], ACKNOWLEDGE),
        ([0xFFFF_FF00], 0),
    ],
)
def test_status_when_steps_are_skipped_keeps_to_the_order(
    idle: FakeDriver, writes: list[int], want: int
) -> None:
    for value in writes:
        idle.write(mmio.STATUS, 4, value)

    assert idle.status == want
    assert not idle.device.runtime.active


def test_status_when_bits_are_cleared_keeps_them(driver: FakeDriver) -> None:
    for value in (ACKNOWLEDGE, DRIVER, DRIVER_OK, READY):
        driver.write(mmio.STATUS, 4, value)

    assert driver.status == READY | DRIVER_OK
    assert driver.request(0, [b"on"], [8]) == b"on"


def test_status_when_driver_fails_shows_failed_until_reset(driver: FakeDriver) -> None:
    driver.write(mmio.STATUS, 4, driver.status | FAILED)
    assert driver.status & FAILED
    driver.reset()

    assert driver.status == 0


def test_features_when_one_is_not_offered_are_refused_and_can_be_asked_for_again(idle: FakeDriver) -> None:
    idle.write(mmio.STATUS, 4, ACKNOWLEDGE | DRIVER)

    assert not idle.negotiate(PLAIN | f.F_RING_PACKED)
    assert idle.status == ACKNOWLEDGE | DRIVER
    assert idle.negotiate(PLAIN)


@pytest.mark.parametrize("features", [0, 1 << 3, f.F_EVENT_IDX])
def test_features_when_version_1_is_not_accepted_are_refused(idle: FakeDriver, features: int) -> None:
    idle.write(mmio.STATUS, 4, ACKNOWLEDGE | DRIVER)

    assert not idle.negotiate(features)


@pytest.mark.parametrize("sel", [2, 3, 0xFFFF_FFFF])
def test_features_when_in_words_that_do_not_exist_are_refused(idle: FakeDriver, sel: int) -> None:
    idle.write(mmio.STATUS, 4, ACKNOWLEDGE | DRIVER)
    idle.write(mmio.DRIVER_FEATURES_SEL, 4, sel)
    idle.write(mmio.DRIVER_FEATURES, 4, 1)

    assert not idle.negotiate(PLAIN)


def test_features_when_written_after_features_ok_are_ignored(idle: FakeDriver) -> None:
    negotiated(idle, PLAIN)
    idle.write(mmio.DRIVER_FEATURES_SEL, 4, 0)
    idle.write(mmio.DRIVER_FEATURES, 4, f.F_EVENT_IDX)
    idle.set_up_queue(0)
    idle.driver_ok()

    assert idle.device.runtime.driver_features == PLAIN


def test_driver_ok_when_written_twice_starts_once(driver: FakeDriver) -> None:
    ring = driver.queues[0]
    driver.request(0, [b"one"], [8])
    driver.write(mmio.STATUS, 4, READY | DRIVER_OK)

    assert driver.request(0, [b"two"], [8]) == b"two"
    assert ring.used_idx == 2


def test_reset_when_running_clears_everything(driver: FakeDriver) -> None:
    driver.request(0, [b"x"], [8])
    driver.reset()

    assert (driver.status, driver.read(mmio.INTERRUPT_STATUS)) == (0, 0)
    for index in (0, 1):
        driver.write(mmio.QUEUE_SEL, 4, index)
        assert driver.read(mmio.QUEUE_READY) == 0
    assert (driver.device.runtime.active, driver.device.runtime.driver_features) == (False, 0)


def test_reset_when_done_again_and_again_serves_each_time(driver: FakeDriver) -> None:
    for n in range(50):
        driver.probe()
        assert driver.request(n % 2, [b"%d" % n], [8]) == b"%d" % n


# Row 24: activation fails


@pytest.mark.parametrize("error", [QueueError("it cannot"), OSError("no host")])
def test_activation_when_it_fails_shows_needs_reset_and_tells_the_driver(
    error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    device = Refusing(error)
    with FakeDriver(device, start=False) as driver:
        negotiated(driver)
        driver.set_up_queue(0)
        driver.driver_ok()

        assert driver.status == READY | DRIVER_OK | DEVICE_NEEDS_RESET
        assert driver.interrupts == 1
        assert driver.acknowledge() == CONFIG_CHANGE
        assert not device.runtime.active
        driver.write(mmio.QUEUE_NOTIFY, 4, 0)
        driver.run()
        driver.reset()
        assert driver.status == 0
    assert count(capfd, "copier does not start") == 1


def test_activation_when_the_device_has_a_defect_tells_the_machine() -> None:
    error = KeyError("a defect")
    with FakeDriver(Refusing(error), start=False) as driver:
        told: list[tuple[str, Exception]] = []
        driver.transport._failed = lambda name, error: told.append((name, error))
        negotiated(driver)
        driver.driver_ok()

        assert told == [("copier", error)]
        assert driver.status & DEVICE_NEEDS_RESET


# Row 25: notifications


def test_kick_when_before_driver_ok_is_not_lost(idle: FakeDriver) -> None:
    negotiated(idle)
    ring = idle.set_up_queue(0)
    request = ring.add([b"early"], [8])
    idle.write(mmio.QUEUE_NOTIFY, 4, 0)
    idle.run()
    idle.driver_ok()
    idle.run()
    ring.collect()

    assert (request.done, ring.data(request)) == (True, b"early")


@pytest.mark.parametrize("queue", [2, 0xFFFF, 0xFFFF_FFFF])
def test_kick_when_of_a_queue_that_is_not_there_does_nothing(driver: FakeDriver, queue: int) -> None:
    driver.write(mmio.QUEUE_NOTIFY, 4, queue)
    driver.run()

    assert driver.request(0, [b"on"], [8]) == b"on"


def test_kicks_when_there_is_nothing_to_do_cause_no_interrupt(driver: FakeDriver) -> None:
    for _ in range(1000):
        driver.write(mmio.QUEUE_NOTIFY, 4, 0)
    driver.run()

    assert driver.interrupts == 0


# Interrupts


def test_interrupt_when_used_says_so_until_acknowledged(driver: FakeDriver) -> None:
    driver.request(0, [b"x"], [8])

    assert driver.interrupts == 1
    assert driver.read(mmio.INTERRUPT_STATUS) == USED_BUFFER
    driver.write(mmio.INTERRUPT_ACK, 4, CONFIG_CHANGE)
    assert driver.read(mmio.INTERRUPT_STATUS) == USED_BUFFER
    driver.write(mmio.INTERRUPT_ACK, 4, 0xFFFF_FFFF)
    assert driver.read(mmio.INTERRUPT_STATUS) == 0


def test_interrupt_when_a_batch_is_served_comes_once(driver: FakeDriver) -> None:
    for n in range(8):
        driver.queues[0].add([b"%d" % n], [8])
    driver.queues[0].kick()
    driver.run()

    assert len(driver.queues[0].collect()) == 8
    assert driver.interrupts == 1


def test_config_change_when_active_interrupts_and_when_reset_does_not(driver: FakeDriver) -> None:
    driver.device.config_changed()
    assert (driver.interrupts, driver.acknowledge()) == (1, CONFIG_CHANGE)
    driver.reset()
    driver.device.config_changed()

    assert driver.interrupts == 1


# Row 21: the configuration space


@pytest.mark.parametrize(
    ("offset", "size", "want"),
    [
        (0, 8, CONFIGURED),
        (0, 4, CONFIGURED & 0xFFFF_FFFF),
        (4, 4, CONFIGURED >> 32),
        (7, 1, CONFIGURED >> 56),
        (3, 2, CONFIGURED >> 24 & 0xFFFF),
        (12, 4, 0),
        (8, 8, 0),
        (mmio.SIZE - mmio.CONFIG - 1, 1, 0),
        (mmio.SIZE - mmio.CONFIG - 8, 8, 0),
    ],
)
def test_config_when_read_in_any_width_gives_its_bytes_and_zeroes_past_the_end(
    driver: FakeDriver, offset: int, size: int, want: int
) -> None:
    assert driver.config(offset, size) == want


def test_config_when_written_stores_writable_fields_only_and_tells_the_device(driver: FakeDriver) -> None:
    driver.write(mmio.CONFIG, 4, 0)
    driver.write(mmio.CONFIG + 4, 8, 0)
    driver.write(mmio.CONFIG + 2000, 4, 1)
    driver.write(mmio.CONFIG + 8, 4, 0xABCD)
    driver.write(mmio.CONFIG + 9, 1, 0x12)

    device = driver.device
    assert isinstance(device, Configured)
    assert (device.config.capacity, device.config.wanted) == (CONFIGURED, 0x12CD)
    assert device.told == [(8, 4), (9, 1)]


def test_config_generation_when_the_device_changes_it_changes(driver: FakeDriver) -> None:
    before = driver.read(mmio.CONFIG_GENERATION)
    driver.device.config.capacity = 1

    assert driver.read(mmio.CONFIG_GENERATION) != before


# Shared memory regions (2.10, 4.2.2)


def test_shared_region_when_it_is_not_there_has_all_ones(idle: FakeDriver) -> None:
    idle.write(mmio.SHM_SEL, 4, 7)

    for offset in (mmio.SHM_LEN_LOW, mmio.SHM_LEN_HIGH, mmio.SHM_BASE_LOW, mmio.SHM_BASE_HIGH):
        assert idle.read(offset) == 0xFFFF_FFFF


def test_shared_region_when_selected_shows_base_and_length(idle: FakeDriver) -> None:
    idle.transport.shared[7] = (0x1_0000_2000, 0x2_0000_0000)
    idle.write(mmio.SHM_SEL, 4, 7)

    assert [idle.read(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)] == [0, 2, 0x2000, 1]


# Many threads


def test_registers_when_hammered_by_four_threads_keep_the_rules() -> None:
    device = Configured()
    with FakeDriver(device, start=False) as driver:
        errors: list[BaseException] = []

        def hammer(seed: int) -> None:
            chance = random.Random(seed)
            try:
                for _ in range(3000):
                    offset = chance.choice((mmio.STATUS, mmio.STATUS, chance.randrange(0, 0x120, 4)))
                    if chance.random() < 0.5:
                        driver.write(offset, 4, chance.choice((0, 1, 3, 11, 15, chance.getrandbits(32))))
                    else:
                        assert 0 <= driver.read(offset) < 1 << 32
                    status = driver.status
                    assert not status & DRIVER_OK or status & READY == READY
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        driver.run()
        driver.probe()

        assert errors == []
        assert driver.request(0, [b"still"], [8]) == b"still"


# State


@pytest.mark.parametrize("features", [PLAIN, EVENTS, ALL])
def test_load_when_saved_while_running_goes_on_with_what_was_waiting(features: int) -> None:
    with FakeDriver(Configured(), features=features) as driver:
        driver.request(0, [b"before"], [8])
        request = driver.queues[0].add([b"after"], [8])
        state = driver.transport.save()

        device = Configured()
        device.runtime.attach(driver.loop)
        driver.transport.close()
        driver.device = device
        driver.transport = mmio.VirtioMmio(device, driver.memory, driver.line, driver._kick)
        driver.transport.load(state)
        driver.run()
        driver.queues[0].collect()

        assert (request.done, driver.queues[0].data(request)) == (True, b"after")
        assert driver.status == READY | DRIVER_OK
        assert driver.request(0, [b"more"], [8]) == b"more"


def test_load_when_saved_in_the_middle_of_setting_up_goes_on_from_there(idle: FakeDriver) -> None:
    negotiated(idle)
    idle.set_up_queue(0)
    state = idle.transport.save()
    idle.reset()
    idle.transport.load(state)
    assert idle.status == READY
    idle.features = ALL
    idle.driver_ok()

    assert idle.device.runtime.active and idle.device.runtime.queues[0].ready


def test_load_when_the_device_interrupts_as_soon_as_it_is_started_keeps_the_cause() -> None:
    class Eager(Copier):
        def started(self) -> None:
            chain = self.runtime.queues[0].pop()
            if chain is not None:
                self.complete(0, chain)

    with FakeDriver(Eager()) as driver:
        driver.queues[0].add([b"x"])
        driver.transport.load(driver.transport.save())

        assert driver.acknowledge() == USED_BUFFER


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 0}, "configured: the saved state has version 0, and this pyvmm reads 1; load it with"),
        ({"status": 256}, "the saved status is 256"),
        ({"queue_sel": "0"}, "the saved queue_sel is '0'"),
        ({"driver_features": 1 << 50}, "it has features that this device does not offer"),
        ({"device": {"version": 9}}, "configured: the saved state has version 9"),
        ({"device": {"version": 1, "device_id": 99}}, "is of virtio device 99, and this is 4"),
        ({"device": {"version": 1, "device_id": 4}}, "does not fit this device"),
        (
            {"device": {"version": 1, "device_id": 4, "config": "00" * 99, "queues": []}},
            "99 bytes for a config",
        ),
        ({"device": None}, "the saved state has version None"),
    ],
)
def test_load_when_state_does_not_fit_is_refused_in_one_sentence_and_leaves_the_device_reset(
    driver: FakeDriver, change: dict[str, object], sentence: str
) -> None:
    state = driver.transport.save() | change

    with pytest.raises(StateError, match=sentence):
        driver.transport.load(state)

    driver.reset()
    driver.probe()
    assert driver.request(0, [b"on"], [8]) == b"on"


def test_load_when_a_queue_does_not_fit_memory_is_refused(driver: FakeDriver) -> None:
    state = driver.transport.save()
    device = state["device"]
    assert isinstance(device, dict)
    device["queues"][0]["desc"] = 1 << 50

    with pytest.raises(StateError, match=r"does not fit this device .*its descriptor table is not in memory"):
        driver.transport.load(state)

    assert driver.status == 0


def test_load_when_number_of_queues_differs_is_refused(driver: FakeDriver) -> None:
    with FakeDriver(Copier()) as other, pytest.raises(StateError, match="does not fit this device"):
        driver.transport.load(other.transport.save())
