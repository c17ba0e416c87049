"""Our vhost-user front end against a back end that breaks the rules: each test names the rule."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.config import Config
from pyvmm.config.memory import MemoryPart
from pyvmm.loop import READ
from pyvmm.machine.machine import Machine
from pyvmm.memory.errors import HostMemoryError
from pyvmm.memory.guest import GuestMemory, Region
from pyvmm.memory.host import Anonymous, FileBacked, Memfd
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.errors import DeviceError
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.bus import EventLine
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.channel import connect, mem_table
from pyvmm.virtio.vhost.frontend import VhostUser
from tests.support.firmware_guest import BIN

PROTOCOL = p.PROTOCOL_F_MQ | p.PROTOCOL_F_REPLY_ACK | p.PROTOCOL_F_CONFIG | p.PROTOCOL_F_BACKEND_REQ
#: Seconds that a back end gets for an operation in which it is to fail: none of these can take longer.
PATIENCE = 0.3
#: The same, where other requests must be answered before.
LONGER = 2.0
#: Seconds for all others: no test waits for so long.
LONG = 30.0
Answer = bytes | None | Callable[[socket.socket, p.Message], None]


#: Requests of the device's making, and of its start and reset, that are not answered in some tests.
BEGINS = {p.GET_FEATURES: PATIENCE, p.GET_QUEUE_NUM: PATIENCE, p.GET_CONFIG: LONGER}
STARTS = {
    p.SET_FEATURES: PATIENCE,
    p.SET_MEM_TABLE: PATIENCE,
    p.SET_VRING_ADDR: PATIENCE,
    p.SET_VRING_ENABLE: PATIENCE,
    p.GET_VRING_BASE: LONGER,
}


class Back:
    """A back end in a thread: well-behaved but for the *answers* that a test gives it."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        self.answers = answers
        self.channel: socket.socket | None = None
        self.patience = self._patience(BEGINS)
        self.ours, self.theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def device(self, **keys: int) -> VhostUser:
        device = VhostUser(
            BackEndConnection(lambda: self.ours, "its back end"),
            42,
            "test",
            **{"queues": 1, "config_size": 8, **keys},
        )
        device.channel._patience = self._patience(STARTS)
        return device

    def _patience(self, failing: dict[int, float]) -> float:
        """Seconds for an operation in which one of the requests *failing* may not be answered in time."""
        slow = [request for request, answer in self.answers.items() if answer in (None, slowly, late)]
        return min((failing[request] for request in slow if request in failing), default=LONG)

    def close(self) -> None:
        self.ours.close()
        self._thread.join()
        self.theirs.close()
        if self.channel is not None:
            self.channel.close()

    def _serve(self) -> None:
        receiver = p.MessageReceiver(self.theirs)
        try:
            while True:
                message = receiver.receive(time.monotonic() + 60)
                assert message is not None
                self._answer(message)
                message.close()
        except (p.ProtocolError, OSError):
            pass
        finally:
            receiver.close()

    def _answer(self, message: p.Message) -> None:
        if message.request == p.SET_BACKEND_REQ_FD:
            self.channel = socket.socket(fileno=message.fd())
        usual: dict[int, bytes] = {
            p.GET_FEATURES: p.U64.pack(f.COMMON | p.F_PROTOCOL_FEATURES),
            p.GET_PROTOCOL_FEATURES: p.U64.pack(PROTOCOL),
            p.GET_QUEUE_NUM: p.U64.pack(2),
            p.GET_CONFIG: message.payload,
            p.GET_VRING_BASE: message.payload,
        }
        answer = self.answers.get(message.request, usual.get(message.request))
        if callable(answer):
            answer(self.theirs, message)
        elif answer is not None:
            p.send(self.theirs, message.request, answer, flags=p.REPLY)
        elif message.flags & p.NEED_REPLY and message.request not in self.answers:
            p.send(self.theirs, message.request, p.U64.pack(0), flags=p.REPLY)


@pytest.fixture
def back(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Back]]:
    before = len(os.listdir("/proc/self/fd"))
    made: list[Back] = []

    def make(answers: dict[int, Answer] | None = None) -> Back:
        made.append(Back(answers or {}))
        monkeypatch.setattr(BackEndConnection, "patience", made[-1].patience)
        return made[-1]

    yield make
    for one in made:
        one.close()
    gc.collect()  # views of guest memory hold its file
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


def machine(device: VhostUser) -> Machine:
    config = Config(firmware=str(BIN / "hlt.bin"), memory="1M", console="none")
    return Machine(config, devices=[device])


def hang_up(sock: socket.socket, message: p.Message) -> None:
    sock.shutdown(socket.SHUT_RDWR)


def half(sock: socket.socket, message: p.Message) -> None:
    sock.send(p.HEADER.pack(message.request, p.VERSION | p.REPLY, 8) + b"half")
    sock.shutdown(socket.SHUT_RDWR)


def another(sock: socket.socket, message: p.Message) -> None:
    p.send(sock, message.request + 1, bytes(8), flags=p.REPLY)


def no_reply(sock: socket.socket, message: p.Message) -> None:
    p.send(sock, message.request, bytes(8))


def slowly(sock: socket.socket, message: p.Message) -> None:
    """The answer to a request for a number, a byte every third of the time limit."""
    for byte in p.HEADER.pack(message.request, p.VERSION | p.REPLY, 8) + p.U64.pack(2):
        threading.Event().wait(PATIENCE / 3)
        sock.send(bytes([byte]))


def late(sock: socket.socket, message: p.Message) -> None:
    """A confirmation after a third of the time limit."""
    threading.Event().wait(PATIENCE / 3)
    p.send(sock, message.request, p.U64.pack(0), flags=p.REPLY)


def huge(sock: socket.socket, message: p.Message) -> None:
    sock.send(p.HEADER.pack(message.request, p.VERSION | p.REPLY, 0xFFFF_FFFF))


BAD: list[tuple[Answer, str]] = [
    (b"", "0 bytes where the protocol has 8"),
    (b"short", "5 bytes where the protocol has 8"),
    (bytes(9), "9 bytes where the protocol has 8"),
    (hang_up, "closed the connection"),
    (half, "in the middle of a message"),
    (another, "it answered"),
    (no_reply, "it answered"),
    (huge, "none of vhost-user"),
    (None, "did not answer"),
]


@pytest.mark.parametrize(("answer", "why"), BAD)
@pytest.mark.parametrize("request_", [p.GET_FEATURES, p.GET_QUEUE_NUM])
def test_bad_answer_before_the_start_is_one_sentence(
    back: Callable[..., Back], request_: int, answer: Answer, why: str
) -> None:
    with pytest.raises(DeviceError, match=why):
        back({request_: answer}).device()


@pytest.mark.parametrize("request_", [p.SET_FEATURES, p.SET_MEM_TABLE, p.SET_VRING_ADDR, p.SET_VRING_ENABLE])
@pytest.mark.parametrize("answer", [p.U64.pack(1), b"", hang_up, half, another, None])
def test_bad_answer_at_the_start_needs_a_reset_and_the_machine_goes_on(
    back: Callable[..., Back], request_: int, answer: Answer
) -> None:
    with FakeDriver(back({request_: answer}).device(), start=False) as driver:
        with pytest.raises(AssertionError, match="did not start"):
            driver.probe()
        driver.run()

        assert driver.status & f.DEVICE_NEEDS_RESET


@pytest.mark.parametrize(
    "answer", [p.VRING_STATE.pack(3, 0), p.VRING_STATE.pack(0, 1 << 16), b"", hang_up, None]
)
def test_bad_answer_at_the_reset_is_survived(back: Callable[..., Back], answer: Answer) -> None:
    with FakeDriver(back({p.GET_VRING_BASE: answer}).device()) as driver:
        driver.write(mmio.STATUS, 4, 0)
        driver.run()

        assert driver.status == 0


def test_bad_answer_at_a_save_refuses_it_and_needs_a_reset(
    back: Callable[..., Back], capfd: pytest.CaptureFixture[str]
) -> None:
    def second(sock: socket.socket, message: p.Message) -> None:
        index, _ = message.unpack(p.VRING_STATE)
        p.send(sock, message.request, p.VRING_STATE.pack(index + index, 0), flags=p.REPLY)

    with FakeDriver(back({p.GET_VRING_BASE: second}).device(queues=2)) as driver:
        with pytest.raises(DeviceError, match="it answered GET_VRING_BASE of 1 with 2"):
            driver.transport.save()
        driver.run()
        needs_reset = driver.status & f.DEVICE_NEEDS_RESET
        again = driver.transport.save()  # of a device that needs a reset
        driver.write(mmio.STATUS, 4, 0)

        assert (bool(needs_reset), again["needs_reset"], driver.status) == (True, True, 0)
        assert capfd.readouterr().err.count("its back end") == 1


@pytest.mark.parametrize(
    "answer", [p.CONFIG.pack(0, 4, 0) + bytes(4), p.CONFIG.pack(0, 9, 0) + bytes(9), None]
)
def test_configuration_of_a_wrong_length_is_refused(back: Callable[..., Back], answer: Answer) -> None:
    with pytest.raises(DeviceError, match="GET_CONFIG"):
        back({p.GET_CONFIG: answer}).device()


def test_configuration_that_is_withheld_is_refused(back: Callable[..., Back]) -> None:
    with pytest.raises(DeviceError, match="does not tell"):
        back({p.GET_CONFIG: p.CONFIG.pack(0, 0, 0)}).device()


def test_back_end_with_fewer_queues_than_asked_for_is_refused(back: Callable[..., Back]) -> None:
    with pytest.raises(DeviceError, match="has 2 queues and 3"):
        back().device(queues=3)


def test_features_that_the_transport_cannot_carry_are_not_offered(back: Callable[..., Back]) -> None:
    with FakeDriver(back({p.GET_FEATURES: p.U64.pack((1 << 64) - 1)}).device(), start=False) as driver:
        offered = driver.offered()

    for feature in (f.F_RING_PACKED, f.F_ACCESS_PLATFORM, f.F_RING_RESET, p.F_PROTOCOL_FEATURES, 1 << 26):
        assert not offered & feature


def test_answer_with_descriptors_leaves_none_open(back: Callable[..., Back]) -> None:
    def with_fd(sock: socket.socket, message: p.Message) -> None:
        p.send(sock, message.request, p.U64.pack(2), [sock.fileno()] * 3, p.REPLY)

    back({p.GET_QUEUE_NUM: with_fd}).device().close()  # the fixture counts descriptors


def test_garbage_on_the_back_channel_needs_a_reset(back: Callable[..., Back]) -> None:
    one = back()
    with FakeDriver(one.device()) as driver:
        assert one.channel is not None
        one.channel.send(b"\xff" * 64)
        driver.run(lambda: driver.status & f.DEVICE_NEEDS_RESET)

        assert driver.read(mmio.INTERRUPT_STATUS) & CONFIG_CHANGE


def test_unknown_request_on_the_back_channel_is_answered_with_a_refusal(back: Callable[..., Back]) -> None:
    one = back()
    with FakeDriver(one.device()) as driver:
        assert one.channel is not None
        p.send(one.channel, 99, bytes(8), [0], p.NEED_REPLY)
        driver.run()
        answer = p.MessageReceiver(one.channel).receive(time.monotonic() + 5)

        assert answer is not None
        assert answer.unpack(p.U64) == (1,)
        assert driver.status & f.DRIVER_OK and not driver.status & f.DEVICE_NEEDS_RESET


def test_socket_nobody_listens_on_is_one_sentence(tmp_path: object) -> None:
    for path in (f"{tmp_path}/none", f"{tmp_path}/{'x' * 200}"):
        with pytest.raises(DeviceError, match="start the back end first"):
            connect(path)


# Memory


def test_memory_in_one_file_becomes_one_region() -> None:
    host = Memfd(1 << 20)
    memory = GuestMemory([Region(n << 18, 1 << 18, host, n << 18) for n in range(4)])

    payload, fds = mem_table(memory, "x")
    memory.close()

    assert (int.from_bytes(payload[:4], "little"), len(payload), len(fds)) == (1, 40, 1)


def test_memory_in_more_pieces_than_the_protocol_carries_is_refused() -> None:
    memory = GuestMemory([Region(n << 20, 4096, Memfd(4096)) for n in range(9)])

    with pytest.raises(DeviceError, match="9 regions and vhost-user carries 8"):
        mem_table(memory, "x")
    memory.close()


def test_memory_that_is_private_is_refused() -> None:
    memory = GuestMemory([Region(0, 4096, Anonymous(4096))])

    with pytest.raises(DeviceError, match="private to this process"):
        mem_table(memory, "x")
    memory.close()


def test_memory_whose_size_anybody_can_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(4096))
    memory = GuestMemory([Region(0, 4096, FileBacked(tmp_path / "ram"))])

    with pytest.raises(DeviceError, match="could truncate"):
        mem_table(memory, "x")
    memory.close()


@pytest.mark.kvm
def test_memory_file_of_a_guest_whose_device_is_elsewhere_is_refused(
    back: Callable[..., Back], tmp_path: Path
) -> None:
    (tmp_path / "ram").write_bytes(bytes(1 << 20))
    part = MemoryPart(1 << 20, "file", str(tmp_path / "ram"))
    config = Config(firmware=str(BIN / "hlt.bin"), memory=(part,), console="none")

    device = back().device()
    with pytest.raises(HostMemoryError, match=r"ram cannot be shared with another process.*use memfd"):
        Machine(config, devices=[device])
    device.close()


def test_memory_that_the_back_end_got_cannot_be_truncated(back: Callable[..., Back]) -> None:
    outcomes: list[object] = []

    def truncate(sock: socket.socket, message: p.Message) -> None:
        for size in (0, 1 << 40):
            try:
                outcomes.append(os.ftruncate(message.fds[0], size))
            except PermissionError as error:
                outcomes.append(error.errno)
        p.send(sock, message.request, p.U64.pack(0), flags=p.REPLY)

    with FakeDriver(back({p.SET_MEM_TABLE: truncate}).device()):
        pass

    assert outcomes == [errno.EPERM] * 2


# Time


def test_answer_that_comes_byte_by_byte_is_not_waited_for_longer(back: Callable[..., Back]) -> None:
    with pytest.raises(DeviceError, match="did not answer"):
        back({p.GET_QUEUE_NUM: slowly}).device()


def test_start_whose_answers_are_each_in_time_has_one_limit_for_all(back: Callable[..., Back]) -> None:
    steps = (p.SET_FEATURES, p.SET_VRING_NUM, p.SET_VRING_BASE, p.SET_VRING_ADDR, p.SET_VRING_CALL)
    with FakeDriver(back(dict.fromkeys(steps, late)).device(), start=False) as driver:
        with pytest.raises(AssertionError, match="did not start"):
            driver.probe()

        assert driver.status & f.DEVICE_NEEDS_RESET


def begin(built: Machine, queues: int = 1) -> None:
    """What a driver does to start the machine's only device."""
    assert built.virtio is not None
    (attached,) = built.virtio.attached
    writes = [(mmio.STATUS, 3), (mmio.DRIVER_FEATURES_SEL, 1), (mmio.DRIVER_FEATURES, 1), (mmio.STATUS, 11)]
    for n in range(queues):
        place = 0x1_0000 * (n + 1)
        writes += [(mmio.QUEUE_SEL, n), (mmio.QUEUE_SIZE, 8), (mmio.QUEUE_DESC_LOW, place)]
        writes += [(mmio.QUEUE_DRIVER_LOW, place + 0x1000), (mmio.QUEUE_DEVICE_LOW, place + 0x2000)]
        writes += [(mmio.QUEUE_READY, 1)]
    for offset, value in [*writes, (mmio.STATUS, 15)]:
        attached.transport.write(offset, 4, value)


@pytest.mark.kvm
@pytest.mark.timeout(60)
@pytest.mark.parametrize("request_", [p.GET_VRING_BASE, p.SET_VRING_ENABLE])
def test_end_of_the_machine_waits_a_second_for_a_back_end_that_is_silent(
    back: Callable[..., Back], monkeypatch: pytest.MonkeyPatch, request_: int
) -> None:
    one = back()
    monkeypatch.setattr(BackEndConnection, "patience", LONG)
    device = one.device(queues=2)
    with machine(device) as built:
        begin(built, queues=2)
        one.answers[request_] = None
        at = time.monotonic()

    assert time.monotonic() - at < LONG / 2
    assert device.channel.lost == "it did not answer within 1 s of the machine's end"


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_end_of_the_machine_ends_a_start_that_waits_for_the_back_end(
    back: Callable[..., Back], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    one = back({p.SET_VRING_ADDR: lambda sock, message: asked.set()})
    monkeypatch.setattr(BackEndConnection, "patience", LONG)
    device = one.device()
    with machine(device) as built:
        vcpu = threading.Thread(target=begin, args=(built,))
        vcpu.start()
        assert asked.wait(LONG)
        at = time.monotonic()
    vcpu.join(LONG)

    assert not vcpu.is_alive()
    assert time.monotonic() - at < LONG / 2


# Descriptors that the back end shares


class Sharing(Back):
    """A back end that keeps the eventfds for errors that it gets, and makes reads of them block."""

    def __init__(self) -> None:
        self.errors: list[int] = []
        super().__init__({p.SET_VRING_ERR: self.keep})

    def keep(self, sock: socket.socket, message: p.Message) -> None:
        self.errors.append(message.fd())
        os.set_blocking(self.errors[-1], True)
        p.send(sock, message.request, p.U64.pack(0), flags=p.REPLY)

    def close(self) -> None:
        super().close()
        for fd in self.errors:
            os.close(fd)


@pytest.fixture
def sharing(back: Callable[..., Back]) -> Iterator[Sharing]:
    sharing = Sharing()
    yield sharing
    sharing.close()


@pytest.mark.timeout(60)
def test_error_that_the_back_end_takes_back_is_an_error_and_blocks_nothing(sharing: Sharing) -> None:
    with FakeDriver(sharing.device()) as driver:
        (error,) = sharing.errors
        first = os.eventfd(0)
        # Both are ready in one turn of the loop; the first one's callback empties the second.
        driver.loop.add(first, READ, lambda _: (os.eventfd_read(first), os.eventfd_read(error)))
        os.eventfd_write(first, 1)
        os.eventfd_write(error, 1)
        driver.loop.run_once(0)
        driver.loop.remove(first)
        os.close(first)

        assert driver.status & f.DEVICE_NEEDS_RESET


def test_errors_without_end_are_one_event(sharing: Sharing) -> None:
    with FakeDriver(sharing.device()) as driver:
        (error,) = sharing.errors
        os.eventfd_write(error, 1)
        driver.run(lambda: driver.status & f.DEVICE_NEEDS_RESET)
        os.eventfd_write(error, 1)

        assert driver.loop.run_once(0) == 0


def test_error_of_the_start_before_ends_no_other(sharing: Sharing) -> None:
    with FakeDriver(sharing.device()) as driver:
        (error,) = sharing.errors
        driver.probe()
        os.eventfd_write(error, 1)
        driver.run()

        assert not driver.status & f.DEVICE_NEEDS_RESET


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_notification_that_is_full_and_blocks_does_not_hold_the_vcpu(back: Callable[..., Back]) -> None:
    with machine(back().device()) as built:
        assert built.virtio is not None
        (attached,) = built.virtio.attached
        os.eventfd_write(attached.kicks[0], 2**64 - 2)
        os.set_blocking(attached.kicks[0], True)
        attached.transport.write(mmio.QUEUE_NOTIFY, 4, 0)

        assert os.eventfd_read(attached.kicks[0]) == 2**64 - 1


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_interrupt_that_is_full_and_blocks_does_not_hold_the_device(back: Callable[..., Back]) -> None:
    with machine(back().device()) as built:
        assert built.virtio is not None
        (attached,) = built.virtio.attached
        line = attached.line
        assert isinstance(line, EventLine)
        built.vm.irqfd(line.fd, attached.gsi, deassign=True)  # KVM would empty it
        os.eventfd_write(line.fd, 2**64 - 2)
        os.set_blocking(line.fd, True)
        attached.transport.config_changed()

        assert os.eventfd_read(line.fd) == 2**64 - 1


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_change_of_configuration_that_is_not_told_does_not_hold_the_machines_loop(
    back: Callable[..., Back],
) -> None:
    asked, over = threading.Event(), threading.Event()

    def withhold(sock: socket.socket, message: p.Message) -> None:
        asked.set()
        over.wait()

    one = back()
    device = one.device()
    one.answers[p.GET_CONFIG] = withhold
    try:
        with machine(device) as built:
            assert one.channel is not None
            p.send(one.channel, p.BACKEND_CONFIG_CHANGE_MSG)
            while not asked.wait(0.01):
                built.loop.run_once(0)
            built.loop.run_once(0)
            lost = device.channel.lost
    finally:
        over.set()

    assert not lost
    assert device.channel.lost == "this machine is over", "the machine waited for the answer when it ended"
