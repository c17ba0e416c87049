"""The interrupt's status: by exits, in a page, and with acknowledgements that KVM counts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.loop import Loop
from pyvmm.testing import FakeDriver
from pyvmm.testing.driver import CountingLine
from pyvmm.virtio import features as f
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE, SETTLE, USED_BUFFER, Interrupt
from tests.support.rings import Configured

REGISTERS = (
    *(mmio.MAGIC_VALUE, mmio.VERSION, mmio.DEVICE_ID, mmio.VENDOR_ID, mmio.DEVICE_FEATURES),
    *(mmio.QUEUE_SIZE_MAX, mmio.QUEUE_READY, mmio.INTERRUPT_STATUS, mmio.STATUS),
    *(mmio.SHM_LEN_LOW, mmio.SHM_LEN_HIGH, mmio.SHM_BASE_LOW, mmio.SHM_BASE_HIGH),
    *(mmio.CONFIG_GENERATION, mmio.CONFIG, mmio.CONFIG + 4, mmio.CONFIG + 8, mmio.CONFIG + 12),
)
STEPS = [0, 1, 3, 11, 15, 0x80]


class Host:
    """A loop with a clock of ours, the eventfd that KVM would write, and what KVM was told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loop = Loop(lambda: self.now)
        self.acks = os.eventfd(0, os.EFD_NONBLOCK)
        self.line = CountingLine()
        self.interrupt = Interrupt(self.line)
        self.word = memoryview(bytearray(4)).cast("I")
        self.assigned: list[bool] = []

    def listen(self) -> None:
        self.interrupt.assign_ioeventfd(self.acks, self.loop, self.assigned.append)

    def acknowledge(self, times: int = 1) -> None:
        os.eventfd_write(self.acks, times)

    def pass_time(self) -> None:
        self.now += SETTLE
        while self.loop.run_once(0):
            pass

    def close(self) -> None:
        self.interrupt.close()
        self.loop.close()
        os.close(self.acks)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture
def shown(host: Host) -> Host:
    """Its status is in a page, its acknowledgements go to KVM."""
    host.interrupt.mirror_status(host.word)
    host.listen()
    return host


# Registers in a page


@given(
    writes=st.lists(
        st.one_of(
            st.tuples(st.just(mmio.STATUS), st.sampled_from(STEPS)),
            st.tuples(
                st.sampled_from(
                    [mmio.DEVICE_FEATURES_SEL, mmio.DRIVER_FEATURES_SEL, mmio.QUEUE_SEL, mmio.SHM_SEL]
                ),
                st.integers(0, 3),
            ),
            st.tuples(st.just(mmio.DRIVER_FEATURES), st.sampled_from([0, 1])),
            st.tuples(st.sampled_from([mmio.QUEUE_READY, mmio.QUEUE_SIZE]), st.sampled_from([0, 1, 16])),
            st.tuples(st.just(mmio.CONFIG + 8), st.integers(0, 0xFFFF_FFFF)),
            st.tuples(st.just(mmio.INTERRUPT_ACK), st.integers(0, 3)),
            st.tuples(
                st.sampled_from(["used", "config_changed", "needs_reset", "capacity"]), st.integers(0, 99)
            ),
        ),
        max_size=30,
    )
)
def test_page_when_anything_happens_holds_what_reads_give(writes: list[tuple[int | str, int]]) -> None:
    page = memoryview(bytearray(mmio.SIZE))
    with FakeDriver(Configured(), start=False) as driver:
        driver.transport.shared[1] = (0x1_2345_6000, 0x20_0000)
        driver.transport.mirror_registers(page)
        for place, value in writes:
            if isinstance(place, int):
                driver.write(place, 4, value)
            elif place == "capacity":
                driver.device.config.capacity = value
            elif place == "used":
                driver.transport.used(0)
            else:
                getattr(driver.transport, place)()
            read = {offset: driver.read(offset) for offset in REGISTERS}

            assert {offset: page.cast("I")[offset >> 2] for offset in REGISTERS} == read


def test_page_when_the_device_is_loaded_holds_what_was_saved() -> None:
    page = memoryview(bytearray(mmio.SIZE))
    with FakeDriver(Configured()) as driver, FakeDriver(Configured(), memory=driver.memory) as other:
        other.transport.mirror_registers(page)
        driver.device.config.capacity = 77
        driver.transport.config_changed()

        other.transport.load(driver.transport.save())

        words = page.cast("I")
        assert words[mmio.STATUS >> 2] == driver.status
        assert words[mmio.INTERRUPT_STATUS >> 2] == CONFIG_CHANGE
        assert words[mmio.CONFIG >> 2] == 77


# Acknowledgements by exits


def test_status_when_acknowledged_by_an_exit_is_cleared_at_once(host: Host) -> None:
    host.interrupt.mirror_status(host.word)
    host.interrupt.raise_(USED_BUFFER)
    host.interrupt.raise_(CONFIG_CHANGE)

    host.interrupt.acknowledge(USED_BUFFER)

    assert (host.interrupt.read(), host.word[0], host.line.pulses) == (CONFIG_CHANGE, CONFIG_CHANGE, 2)


# Acknowledgements as an eventfd, the status read by exits


def test_read_when_acknowledged_since_is_clear(host: Host) -> None:
    host.listen()
    host.interrupt.raise_(USED_BUFFER)
    first = host.interrupt.read()
    host.acknowledge()

    assert (first, host.interrupt.read()) == (USED_BUFFER, 0)


def test_read_when_raised_again_after_the_acknowledgement_says_so(host: Host) -> None:
    host.listen()
    host.interrupt.raise_(USED_BUFFER)
    host.interrupt.read()
    host.acknowledge()
    host.interrupt.raise_(USED_BUFFER)

    assert host.interrupt.read() == USED_BUFFER
    assert host.interrupt.read() == USED_BUFFER, "the old acknowledgement counts for nothing newer"
    host.acknowledge()
    assert host.interrupt.read() == 0


def test_read_when_not_acknowledged_says_so_again(host: Host) -> None:
    host.listen()
    host.interrupt.raise_(USED_BUFFER)

    assert [host.interrupt.read() for _ in range(3)] == [USED_BUFFER] * 3


# Acknowledgements as an eventfd, the status in a page


def test_word_when_acknowledged_long_after_the_cause_is_cleared(shown: Host) -> None:
    shown.interrupt.raise_(USED_BUFFER)
    shown.pass_time()
    shown.acknowledge()
    shown.pass_time()

    assert shown.word[0] == 0


def test_word_when_the_cause_may_be_newer_than_the_acknowledgement_stays(shown: Host) -> None:
    shown.interrupt.raise_(USED_BUFFER)
    shown.pass_time()
    shown.acknowledge()
    shown.interrupt.raise_(USED_BUFFER)
    shown.pass_time()
    before = shown.word[0]
    shown.pass_time()
    shown.acknowledge()  # the driver has read a status with the second cause in it
    shown.pass_time()

    assert (before, shown.word[0]) == (USED_BUFFER, 0)


def test_word_when_a_driver_waits_for_zero_is_cleared_and_its_exits_come_back(shown: Host) -> None:
    shown.interrupt.raise_(USED_BUFFER)
    shown.acknowledge(1000)  # while (status = read()) acknowledge(status)
    shown.pass_time()
    shown.acknowledge()
    shown.pass_time()

    assert shown.word[0] == 0
    assert shown.assigned == [True, False]


def test_acknowledgements_when_one_an_interrupt_never_come_back_as_exits(shown: Host) -> None:
    for _ in range(100):
        for _ in range(5):
            shown.interrupt.raise_(USED_BUFFER)
            shown.acknowledge()
        shown.pass_time()

    assert shown.assigned == [True]


def test_status_of_vhost_when_interrupts_pass_us_by_stays(shown: Host) -> None:
    shown.interrupt.always(USED_BUFFER)
    shown.acknowledge(1000)
    shown.interrupt.raise_(CONFIG_CHANGE)
    shown.pass_time()
    both = shown.word[0]
    shown.interrupt.acknowledge(CONFIG_CHANGE | USED_BUFFER)
    shown.pass_time()

    assert (both, shown.word[0], shown.assigned) == (USED_BUFFER | CONFIG_CHANGE, USED_BUFFER, [True])


@pytest.mark.parametrize(
    ("features", "told"), [(f.F_VERSION_1, [True, False]), (f.F_VERSION_1 | f.F_EVENT_IDX, [True])]
)
def test_acknowledgements_when_the_driver_is_simple_are_exits(features: int, told: list[bool]) -> None:
    host = Host()
    with FakeDriver(Configured(), start=False, features=features) as driver:
        driver.transport.interrupt.assign_ioeventfd(host.acks, host.loop, host.assigned.append)

        driver.probe()

        assert host.assigned == told
        driver.reset()
        assert host.assigned[-1]
        driver.transport.interrupt.close()
    host.close()


def test_timer_when_closed_meanwhile_touches_nothing(shown: Host) -> None:
    shown.interrupt.raise_(USED_BUFFER)
    shown.interrupt.close()
    shown.pass_time()

    shown.interrupt.raise_(USED_BUFFER)

    assert (shown.word[0], shown.line.pulses) == (USED_BUFFER, 2)
