"""The console device with several ports: control messages, names, opening and closing, wrong messages."""

from __future__ import annotations

import os
import struct
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.backends.base import CharBackend
from pyvmm.config import Config
from pyvmm.errors import ConfigError
from pyvmm.loop import Loop
from pyvmm.testing import FakeDriver
from pyvmm.virtio.console import device as c
from pyvmm.virtio.console.device import VirtioConsole
from pyvmm.virtio.console.port import Port
from pyvmm.virtio.errors import StateError
from pyvmm.virtio.options import make_devices
from tests.support.console_driver import give_buffers, received

Message = tuple[int, int, int, bytes]


class End(CharBackend):
    """A backend that keeps what is sent, with a test for its other end."""

    def __init__(self, columns: int = 0) -> None:
        super().__init__()
        self.data = b""
        self.there = True
        self.columns = columns
        self.resumed = 0
        self.closed = False

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        self.receive, self.space = receive, space

    @property
    def connected(self) -> bool:
        return self.there

    def connect(self, there: bool) -> None:
        self.there = there
        assert self.on_connect is not None
        self.on_connect()

    def write(self, data: bytes) -> None:
        self.data += data

    def size(self) -> tuple[int, int] | None:
        return (self.columns, 25) if self.columns else None

    def resume(self) -> None:
        self.resumed += 1

    def close(self) -> None:
        self.closed = True


class Ports:
    """A device of three ports under the fake driver: a console, a named data port, a second console."""

    def __init__(self) -> None:
        self.ends = End(columns=80), End(), End()
        first, second, third = self.ends
        self.console = VirtioConsole([Port(first), Port(second, "data", console=False), Port(third)])
        self.driver = FakeDriver(self.console)
        for _ in range(32):
            self.driver.queues[c.CONTROL_RX].add(writable=[64])
        self.driver.queues[c.CONTROL_RX].kick()

    def tell(self, port: int, event: int, value: int = 1, more: bytes = b"") -> list[Message]:
        """Send a control message; what came in answer."""
        return self.tell_bytes(c.CONTROL.pack(port, event, value) + more)

    def tell_bytes(self, message: bytes) -> list[Message]:
        queue = self.driver.queues[c.CONTROL_TX]
        request = queue.add([message])
        queue.kick()
        self.driver.run()
        queue.collect()
        assert request.done
        return self.told()

    def told(self) -> list[Message]:
        self.driver.run()
        queue = self.driver.queues[c.CONTROL_RX]
        texts = [queue.data(request) for request in queue.collect()]
        return [(*c.CONTROL.unpack(text[:8]), text[8:]) for text in texts]


@pytest.fixture
def ports() -> object:
    ports = Ports()
    yield ports
    ports.driver.close()


def test_driver_that_is_ready_is_told_of_every_port(ports: Ports) -> None:
    assert ports.driver.config(4, 4) == 3
    assert ports.tell(0, c.DEVICE_READY) == [(n, c.PORT_ADD, 1, b"") for n in range(3)]


def test_driver_that_is_not_ready_is_told_nothing(ports: Ports) -> None:
    assert ports.tell(0, c.DEVICE_READY, 0) == []


def test_port_that_is_ready_is_introduced_as_what_it_is(ports: Ports) -> None:
    console = ports.tell(0, c.PORT_READY)
    data = ports.tell(1, c.PORT_READY)

    assert console == [
        (0, c.CONSOLE_PORT, 1, b""),
        (0, c.PORT_OPEN, 1, b""),
        (0, c.RESIZE, 0, struct.pack("<HH", 80, 25)),
    ]
    assert data == [(1, c.PORT_NAME, 1, b"data"), (1, c.PORT_OPEN, 1, b"")]


def test_port_with_nobody_at_the_host_opens_when_somebody_comes_and_closes_when_he_leaves(
    ports: Ports,
) -> None:
    end = ports.ends[1]
    end.connect(False)
    assert (1, c.PORT_OPEN, 1, b"") not in ports.tell(1, c.PORT_READY)

    end.connect(True)
    came = ports.told()
    end.connect(False)
    left = ports.told()

    assert (came, left) == ([(1, c.PORT_OPEN, 1, b"")], [(1, c.PORT_OPEN, 0, b"")])


def test_port_that_the_guest_has_not_opened_takes_no_input(ports: Ports) -> None:
    end = ports.ends[1]
    ports.driver.queues[4].add(writable=[100])
    ports.driver.queues[4].kick()
    ports.tell(1, c.PORT_READY)
    closed = end.space()
    ports.tell(1, c.PORT_OPEN, 1)
    opened = end.space()
    ports.tell(1, c.PORT_OPEN, 0)

    assert (closed, opened, end.space(), end.resumed) == (0, 100, 0, 1)


def test_data_of_each_port_goes_through_its_own_queues(ports: Ports) -> None:
    for queue, text in ((1, b"zero"), (5, b"one"), (7, b"two")):
        ports.driver.queues[queue].add([text])
        ports.driver.queues[queue].kick()
    ports.driver.run()

    assert [end.data for end in ports.ends] == [b"zero", b"one", b"two"]


def test_terminal_that_changes_size_is_told_to_the_port_that_has_it(ports: Ports) -> None:
    ports.tell(0, c.PORT_READY)
    ports.ends[0].columns = 132
    ports.console.resized()

    assert ports.told() == [(0, c.RESIZE, 0, struct.pack("<HH", 132, 25))]
    assert ports.driver.config(0, 2) == 132


def test_input_after_silence_is_preceded_by_the_size(ports: Ports) -> None:
    # Linux gives it to a terminal that is open, and this may be the first sign that it is.
    ports.tell(0, c.PORT_READY)
    ports.tell(0, c.PORT_OPEN)
    ports.driver.queues[0].add(writable=[100])
    ports.driver.queues[0].kick()
    ports.driver.run()
    assert ports.ends[0].space() == 100
    ports.ends[0].receive(b"k")

    assert [message[1] for message in ports.told()] == [c.RESIZE]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"short",
        c.CONTROL.pack(3, c.PORT_READY, 1),
        c.CONTROL.pack(0xFFFF_FFFF, c.PORT_OPEN, 1),
        c.CONTROL.pack(0, 99, 1),
        c.CONTROL.pack(0, c.PORT_ADD, 1),
    ],
)
def test_control_message_that_is_wrong_is_refused_and_the_next_is_served(
    ports: Ports, message: bytes
) -> None:
    ports.tell_bytes(message)

    assert len(ports.tell(0, c.DEVICE_READY)) == 3


def test_control_messages_repeated_without_buffers_for_the_answers_stay_few() -> None:
    console = VirtioConsole([Port(End(80)), Port(End(), "data", console=False)])
    with FakeDriver(console) as driver:
        queue = driver.queues[c.CONTROL_TX]
        for _ in range(2000):
            for event, port in ((c.DEVICE_READY, 0), (c.PORT_READY, 0), (c.PORT_READY, 1)):
                queue.add([c.CONTROL.pack(port, event, 1)])
            queue.kick()
            driver.run()
            queue.collect()

        assert len(console._messages) <= 4 * 2


def test_control_buffer_that_is_too_small_gets_what_fits_and_the_next_is_whole() -> None:
    console = VirtioConsole([Port(End(), "data", console=False)])
    with FakeDriver(console) as driver:
        driver.queues[c.CONTROL_RX].add(writable=[3])
        driver.queues[c.CONTROL_RX].add(writable=[64])
        driver.queues[c.CONTROL_RX].kick()
        driver.queues[c.CONTROL_TX].add([c.CONTROL.pack(0, c.PORT_READY, 1)])
        driver.queues[c.CONTROL_TX].kick()
        driver.run()

        assert [request.written for request in driver.queues[c.CONTROL_RX].collect()] == [3, 8]


def test_driver_without_multiport_has_the_first_port_at_once() -> None:
    first, second = End(), End()
    console = VirtioConsole([Port(first), Port(second)])
    with FakeDriver(console, features=1 << 32) as driver:
        driver.queues[0].add(writable=[10])
        driver.queues[0].kick()
        driver.queues[1].add([b"text"])
        driver.queues[1].kick()
        driver.run()

        assert (first.space(), first.data, second.data) == (10, b"text", b"")


def test_console_alone_has_no_control_queues() -> None:
    alone = VirtioConsole([Port(End())])
    named = VirtioConsole([Port(End(), "tty")])

    assert (len(alone.queue_sizes), alone.features & c.F_MULTIPORT) == (2, 0)
    assert (len(named.queue_sizes), named.features & c.F_MULTIPORT) == (4, c.F_MULTIPORT)


def first_input(driver: FakeDriver) -> bytes:
    """What the first port's receive queue gets next."""
    data = bytearray()
    driver.run(lambda: data.extend(received(driver)) or data)
    return bytes(data)


def test_console_alone_of_a_pipe_takes_no_input_until_the_driver_has_opened_it(tmp_path: Path) -> None:
    with FakeDriver(made(f"pipe:{tmp_path / 'end'}")) as driver:
        with open(tmp_path / "end.in", "wb", buffering=0) as pipe:
            pipe.write(b"from the start")
        give_buffers(driver, 100)
        driver.queues[c.CONTROL_TX].add([c.CONTROL.pack(0, c.PORT_READY, 1)])
        driver.queues[c.CONTROL_TX].kick()
        driver.run()
        early = driver.queues[0].collect()
        driver.queues[c.CONTROL_TX].add([c.CONTROL.pack(0, c.PORT_OPEN, 1)])
        driver.queues[c.CONTROL_TX].kick()

        assert (early, first_input(driver)) == ([], b"from the start")


def test_console_alone_of_a_pipe_whose_driver_has_no_multiport_takes_input_at_once(tmp_path: Path) -> None:
    with FakeDriver(made(f"pipe:{tmp_path / 'end'}"), features=1 << 32) as driver:
        with open(tmp_path / "end.in", "wb", buffering=0) as pipe:
            pipe.write(b"from the start")
        give_buffers(driver, 100)

        assert first_input(driver) == b"from the start"


def test_console_alone_of_a_terminal_has_no_control_queues_and_the_size_in_its_configuration() -> None:
    master, terminal = os.openpty()
    stdin = os.dup(0)
    try:
        termios.tcsetwinsize(terminal, (25, 80))
        os.dup2(terminal, 0)
        with FakeDriver(made("stdio")) as driver:
            assert (len(driver.queues), driver.config(0, 2), driver.config(2, 2)) == (2, 80, 25)
    finally:
        os.dup2(stdin, 0)
        for descriptor in (master, terminal, stdin):
            os.close(descriptor)


def test_console_alone_of_an_output_file_has_no_control_queues(tmp_path: Path) -> None:
    device = made(f"file:{tmp_path / 'out'}")
    device.close()

    assert (len(device.queue_sizes), device.features & c.F_MULTIPORT) == (2, 0)


def test_console_alone_of_a_pipe_continues_with_a_driver_that_was_offered_no_multiport(
    tmp_path: Path,
) -> None:
    with FakeDriver(VirtioConsole([Port(End())])) as driver:
        give_buffers(driver, 100)
        driver.replace(lambda: made(f"pipe:{tmp_path / 'end'}"), driver.transport.save())
        with open(tmp_path / "end.in", "wb", buffering=0) as pipe:
            pipe.write(b"input")

        assert first_input(driver) == b"input"


def test_state_with_more_queues_than_the_console_has_is_refused(tmp_path: Path) -> None:
    with FakeDriver(made(f"pipe:{tmp_path / 'end'}"), features=1 << 32) as driver:
        state = driver.transport.save()
        with pytest.raises(StateError, match="give it the options"):
            driver.replace(lambda: VirtioConsole([Port(End())]), state)


def test_console_alone_of_a_pipe_when_it_is_restored_is_as_open_as_it_was(tmp_path: Path) -> None:
    with FakeDriver(made(f"pipe:{tmp_path / 'end'}")) as driver:
        for event in (c.PORT_READY, c.PORT_OPEN):
            driver.queues[c.CONTROL_TX].add([c.CONTROL.pack(0, event, 1)])
        driver.queues[c.CONTROL_TX].kick()
        driver.run()
        driver.transport.load(driver.transport.save())
        give_buffers(driver, 100)
        with open(tmp_path / "end.in", "wb", buffering=0) as pipe:
            pipe.write(b"input")

        assert first_input(driver) == b"input"


def test_state_with_open_ports_is_taken_over(ports: Ports) -> None:
    ports.tell(1, c.PORT_READY)
    ports.tell(1, c.PORT_OPEN)
    ports.driver.queues[4].add(writable=[100])
    state = ports.driver.transport.save()
    ports.driver.transport.load(state)
    ports.driver.run()

    assert ports.ends[1].space() == 100
    assert not ports.console.ports[2].open


@pytest.mark.parametrize("there", [True, False])
def test_state_when_loaded_tells_the_driver_whether_somebody_is_at_the_host_now(
    ports: Ports, there: bool
) -> None:
    ports.tell(1, c.PORT_READY)
    state = ports.driver.transport.save()
    ports.ends[1].connect(there)
    ports.driver.transport.load(state)

    assert ports.told() == [(1, c.PORT_OPEN, int(there), b"")]


def test_close_closes_the_backends() -> None:
    ports = Ports()
    ports.driver.close()

    assert all(end.closed for end in ports.ends)


# Words


def made(*words: str, **keys: object) -> VirtioConsole:
    config = Config(firmware="f", hvc=list(words), **keys)
    (device,) = make_devices(config.devices)
    assert isinstance(device, VirtioConsole)
    return device


def test_words_make_one_device_of_all_ports(tmp_path: Path) -> None:
    device = made("none", "none,name=data,port", f"socket:{tmp_path / 's'},name=second")
    device.close()

    assert [(port.name, port.console) for port in device.ports] == [
        ("", True),
        ("data", False),
        ("second", True),
    ]
    assert device.ports[2].backend.describe() == f"socket {tmp_path / 's'}"


@pytest.mark.parametrize(
    "words",
    [
        ["tty"],
        ["none,nmae=x"],
        ["none,name=a/b"],
        [f"none,name={'x' * 256}"],
        ["none,name=a", "none,name=a"],
        ["none,port=maybe"],
        ["none"] * 32,
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--hvc: "):
        made(*words)


@pytest.mark.parametrize(
    "keys",
    [
        {"hvc": ["stdio", "stdio,port"]},
        {"hvc": "stdio", "console": "stdio"},
    ],
)
def test_two_users_of_stdio_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="both want stdio"):
        Config(firmware="f", **keys)


@pytest.mark.parametrize(
    ("keys", "console", "kernel_console"),
    [
        ({}, "stdio", "ttyS0"),
        ({"hvc": "stdio"}, "none", "hvc0"),
        ({"hvc": "pty", "console": "stdio"}, "stdio", "ttyS0"),
        ({"hvc": "none,port"}, "stdio", "ttyS0"),
        ({"hvc": {"to": "none", "port": False}}, "none", "hvc0"),
    ],
)
def test_console_of_the_kernel_is_hvc0_where_nothing_else_is_asked_for(
    keys: dict[str, object], console: str, kernel_console: str
) -> None:
    config = Config(firmware="f", **keys)

    assert (config.console, config.kernel_console) == (console, kernel_console)
    assert config.replace(timeout=None).kernel_console == kernel_console


def test_paths_in_a_board_file_are_the_files_own_folders(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "board.toml")
    with open(path, "w") as file:
        file.write('firmware = "f"\nhvc = ["socket:a", {to = "file:b"}, "pty"]\n')

    config = Config.from_toml(path)

    assert [device.values["to"] for device in config.devices] == [
        f"socket:{tmp_path}/a",
        f"file:{tmp_path}/b",
        "pty",
    ]
