"""The worked examples, driven by the fake driver."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.features import DEVICE_NEEDS_RESET
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.user_device import load_class, make

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str, **arguments: str) -> VirtioDevice:
    """As ``--device examples/NAME,...`` makes it."""
    return make(load_class(f"{EXAMPLES}/{name}"), dict(arguments))


class I2c:
    """What an I2C controller's driver asks for."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver

    def write(self, address: int, data: bytes, flags: int = 0) -> int:
        status = self.driver.request(0, [struct.pack("<HHI", address << 1, 0, flags), data], [1])
        return status[0]

    def read(self, address: int, size: int, flags: int = 0) -> tuple[bytes, int]:
        answer = self.driver.request(0, [struct.pack("<HHI", address << 1, 0, flags | 2)], [size, 1])
        return answer[:-1], answer[-1]


@pytest.fixture
def i2c() -> Iterator[I2c]:
    with FakeDriver(example("i2c_adapter.py:I2cAdapter", temperature="36.5")) as driver:
        yield I2c(driver)


def test_thermometer_when_its_register_is_read_gives_the_temperature(i2c: I2c) -> None:
    written = i2c.write(0x48, b"\0", flags=1)
    value, status = i2c.read(0x48, 2)

    assert (written, status) == (0, 0)
    assert struct.unpack(">h", value)[0] / 256 == 36.5


def test_eeprom_when_a_page_is_written_wraps_within_the_page(i2c: I2c) -> None:
    i2c.write(0x50, bytes([0x0E, 1, 2, 3]))
    i2c.write(0x50, b"\x08", flags=1)

    assert i2c.read(0x50, 9) == (b"\x03\xff\xff\xff\xff\xff\x01\x02\xff", 0)


def test_transaction_when_nobody_is_at_the_address_fails_to_its_end(i2c: I2c) -> None:
    first = i2c.write(0x22, b"\0", flags=1)
    second = i2c.read(0x48, 2)
    afterwards = i2c.read(0x48, 2)

    assert (first, second[1], afterwards[1]) == (1, 1, 0)


def test_message_when_its_header_is_short_goes_back_and_the_next_is_served(i2c: I2c) -> None:
    assert i2c.driver.request(0, [b"short"], [1]) == b""
    assert i2c.write(0x48, b"\0") == 0


def test_message_when_it_has_no_room_for_a_status_changes_nothing(i2c: I2c) -> None:
    i2c.driver.request(0, [struct.pack("<HHI", 0x50 << 1, 0, 0), b"\0\x55"], [])
    i2c.write(0x50, b"\0")

    assert i2c.read(0x50, 1) == (b"\xff", 0)


class Gpio:
    """What a GPIO driver asks for."""

    GET_NAMES, GET_DIRECTION, SET_DIRECTION, GET_VALUE, SET_VALUE, IRQ_TYPE = range(1, 7)

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver

    def ask(self, kind: int, line: int, value: int = 0, room: int = 2) -> bytes:
        return self.driver.request(0, [struct.pack("<HHI", kind, line, value)], [room])

    def wait(self, line: int) -> None:
        self.driver.queues[1].add([struct.pack("<H", line)], [1])
        self.driver.queues[1].kick()
        self.driver.run()

    def events(self) -> list[bytes]:
        queue = self.driver.queues[1]
        self.driver.run()
        return [queue.data(request) for request in queue.collect()]

    def input(self, line: int, level: int) -> None:
        self.driver.device.set_input(line, level)  # type: ignore[attr-defined]
        self.driver.run()


@pytest.fixture
def gpio() -> Iterator[Gpio]:
    with FakeDriver(example("gpio_expander.py:GpioExpander", lines="4", wires="0:2")) as driver:
        yield Gpio(driver)


def test_expander_when_asked_tells_its_lines_and_their_names(gpio: Gpio) -> None:
    size = gpio.driver.config(4, 4)

    assert gpio.driver.config(0, 2) == 4
    assert gpio.ask(gpio.GET_NAMES, 0, room=1 + size) == b"\0line0\0line1\0line2\0line3\0"


def test_output_when_it_is_wired_moves_the_input_at_the_other_end(gpio: Gpio) -> None:
    gpio.ask(gpio.SET_DIRECTION, 0, 1)
    before = gpio.ask(gpio.GET_VALUE, 2)
    gpio.ask(gpio.SET_VALUE, 0, 1)

    assert (before, gpio.ask(gpio.GET_VALUE, 2)) == (b"\0\0", b"\0\1")


def test_edge_when_the_driver_waits_for_it_gives_its_buffer_back(gpio: Gpio) -> None:
    gpio.ask(gpio.IRQ_TYPE, 3, 1)
    gpio.wait(3)
    assert gpio.events() == []

    gpio.input(3, 1)

    assert gpio.events() == [b"\1"]


def test_edge_when_no_buffer_waits_is_kept_for_the_next(gpio: Gpio) -> None:
    gpio.ask(gpio.IRQ_TYPE, 3, 3)
    gpio.input(3, 1)
    gpio.input(3, 0)

    gpio.wait(3)
    first = gpio.events()
    gpio.wait(3)

    assert (first, gpio.events()) == ([b"\1"], [])


def test_level_when_it_lasts_is_told_with_every_buffer(gpio: Gpio) -> None:
    gpio.input(3, 1)
    gpio.ask(gpio.IRQ_TYPE, 3, 4)

    gpio.wait(3)
    gpio.wait(3)

    assert gpio.events() == [b"\1", b"\1"]


def test_interrupt_when_it_is_turned_off_gives_the_buffer_back_as_invalid(gpio: Gpio) -> None:
    gpio.ask(gpio.IRQ_TYPE, 3, 1)
    gpio.wait(3)

    gpio.ask(gpio.IRQ_TYPE, 3, 0)

    assert gpio.events() == [b"\0"]


@pytest.mark.parametrize(("kind", "line", "value"), [(4, 4, 0), (3, 0, 3), (5, 0, 2), (6, 0, 5), (9, 0, 0)])
def test_request_when_it_makes_no_sense_is_refused(gpio: Gpio, kind: int, line: int, value: int) -> None:
    assert gpio.ask(kind, line, value) == b"\1\0"


def test_second_buffer_for_a_line_that_has_one_comes_back_unused(gpio: Gpio) -> None:
    gpio.ask(gpio.IRQ_TYPE, 3, 1)
    gpio.wait(3)
    gpio.wait(3)
    refused = gpio.events()

    gpio.input(3, 1)

    assert (refused, gpio.events()) == ([b""], [b"\1"])


def test_reset_when_buffers_wait_forgets_them(gpio: Gpio) -> None:
    gpio.ask(gpio.IRQ_TYPE, 3, 1)
    gpio.wait(3)

    gpio.driver.probe()
    gpio.input(3, 1)

    assert gpio.events() == []


def test_accelerometer_when_its_pages_are_selected_tells_what_it_is() -> None:
    with FakeDriver(example("accelerometer.py:Accelerometer")) as driver:
        pages = []
        for select, subsel in ((0x01, 0), (0x11, 3), (0x11, 1), (0x12, 2)):
            driver.write(mmio.CONFIG, 1, select)
            driver.write(mmio.CONFIG + 1, 1, subsel)
            size = driver.config(2, 1)
            pages.append(bytes(driver.config(8 + at, 1) for at in range(size)))

    assert pages == [b"pyvmm accelerometer", b"\x07", b"", struct.pack("<5i", -2000, 2000, 0, 0, 1000)]


def test_accelerometer_when_buffers_are_there_sends_whole_samples() -> None:
    with FakeDriver(example("accelerometer.py:Accelerometer", rate="200")) as driver:
        queue = driver.queues[0]
        requests = [queue.add([], [8]) for _ in range(8)]
        queue.kick()
        driver.run(lambda: queue.collect() and not queue.pending)
        events = [struct.unpack("<HHi", queue.data(request)) for request in requests]

    assert [(kind, code) for kind, code, _ in events] == [(3, 0), (3, 1), (3, 2), (0, 0)] * 2
    assert (events[0][2], events[2][2]) == (0, 1000)
    assert 0 < events[4][2] < 100


def test_accelerometer_when_buffers_lack_loses_the_sample_and_not_its_half() -> None:
    device = example("accelerometer.py:Accelerometer", rate="200")
    with FakeDriver(device) as driver:
        queue = driver.queues[0]
        for _ in range(3):
            queue.add([], [8])
        queue.kick()
        driver.run(lambda: device.lost > 1)  # type: ignore[attr-defined]

        assert queue.collect() == []


@pytest.mark.parametrize(
    "name", ["i2c_adapter.py:I2cAdapter", "gpio_expander.py:GpioExpander", "accelerometer.py:Accelerometer"]
)
@given(
    asked=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.one_of(st.binary(max_size=24), st.just(b"\5\0\0\0\1\0\0\0")),
            st.integers(0, 9),
        ),
        max_size=20,
    )
)
@settings(max_examples=60, deadline=None)
def test_example_when_its_driver_says_anything_goes_on(
    name: str, asked: list[tuple[int, bytes, int]]
) -> None:
    with FakeDriver(example(name)) as driver:
        for queue, data, room in asked:
            ring = driver.queues[queue % len(driver.queues)]
            ring.add([data], [room])
            ring.kick()
            driver.run()
            ring.collect()

        assert not driver.status & DEVICE_NEEDS_RESET
