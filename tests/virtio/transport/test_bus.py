"""Devices in a real machine: doorbells and interrupts, many at once, clear errors at the limits."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.disk.raw import RawDisk
from pyvmm.board.device import Line
from pyvmm.board.space import DOORBELL, IRQ, MMIO
from pyvmm.config import Config
from pyvmm.errors import ConfigError, StartError
from pyvmm.machine.machine import Machine
from pyvmm.pykvm.errors import KvmError
from pyvmm.virtio.block.device import Block
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.one_cpu import doorbell
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.transport import mmio
from pyvmm.virtio.transport.bus import EventLine
from pyvmm.virtio.transport.interrupt import USED_BUFFER
from tests.support.firmware_guest import BIN
from tests.support.rings import Copier, Pair

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]


class Closing(Rng):
    """Knows whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def machine(*devices: VirtioDevice, **keys: object) -> Machine:
    config = Config(firmware=str(BIN / "hlt.bin"), memory="1M", console="none", **keys)
    return Machine(config, devices=devices)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def few_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_attach_when_placed_has_a_page_an_interrupt_and_bells_for_queues_and_acknowledgements() -> None:
    with machine(Pair()) as built:
        assert built.virtio is not None
        (attached,) = built.virtio.attached
        bells = [window for window in built.board.windows(MMIO) if window.kind == DOORBELL]

        assert attached.base % mmio.SIZE == 0
        assert [(bell.base, bell.size, bell.datamatch) for bell in bells] == [
            (attached.base + mmio.QUEUE_NOTIFY, 4, 0),
            (attached.base + mmio.QUEUE_NOTIFY, 4, 1),
            (attached.base + mmio.INTERRUPT_ACK, 4, USED_BUFFER),
        ]
        assert built.mmio.read(attached.base, 4) == mmio.MAGIC


def test_attach_when_two_are_of_a_kind_gives_them_names_of_their_own() -> None:
    with machine(Rng(), Rng(), Copier()) as built:
        assert built.virtio is not None
        assert [attached.name for attached in built.virtio.attached] == ["rng0", "rng1", "copier0"]


def test_attach_when_there_are_64_devices_shares_the_interrupts_evenly() -> None:
    with machine(*(Pair() for _ in range(64))) as built:
        assert built.virtio is not None
        attached = built.virtio.attached
        shares = [sum(other.gsi == one.gsi for other in attached) for one in attached]

        assert len({one.base for one in attached}) == 64
        assert max(shares) - min(shares) <= 1
        assert all(window.shared for window in built.board.windows(IRQ) if window.owner.startswith("copier"))


def test_close_when_many_devices_were_attached_gives_every_descriptor_back() -> None:
    machine(Rng()).close()  # what is loaded and opened once
    before = descriptors()
    devices = [Closing() for _ in range(40)]
    machine(*devices).close()

    assert descriptors() == before
    assert all(device.closed for device in devices)


def test_attach_when_the_page_arena_is_full_says_so_and_closes_all() -> None:
    before = descriptors()
    devices = [Closing() for _ in range(3)]
    from pyvmm.arch.x86_64 import layout

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MMIO_END", layout.MMIO_START + 2 * mmio.SIZE)
        with pytest.raises(ConfigError, match=r"no room for 0x1000 in the mmio arena .*asked for by 'rng2'"):
            machine(*devices)

    assert descriptors() <= before + 1
    assert all(device.closed for device in devices)


def test_attach_when_files_run_out_says_so_and_closes_all(few_files: None) -> None:
    before = descriptors()
    devices = [Closing() for _ in range(40)]

    with pytest.raises(StartError, match=r"cannot be attached: Too many open files; .*ulimit -n"):
        machine(*devices)

    assert descriptors() == before
    assert all(device.closed for device in devices)


def test_line_when_pulsed_more_often_than_anybody_listens_never_fails() -> None:
    line = EventLine()
    for _ in range(10_000):
        line.pulse()
    count = os.eventfd_read(line.fd)
    os.close(line.fd)

    assert count == 10_000


def test_attach_when_device_has_a_thread_of_its_own_ends_it_at_close() -> None:
    class Threaded(Copier):
        own_thread = True

    device = Threaded()
    with machine(device) as built:
        assert device.runtime.loop is not built.loop
        assert built.virtio is not None
        loop = device.runtime.loop

    loop.call_soon(lambda: pytest.fail("the loop still runs"))
    with pytest.raises(ValueError, match="closed"):
        loop.run_once(0)


def test_kick_when_written_by_the_machine_itself_reaches_the_queue() -> None:
    device = Copier()
    with machine(device) as built:
        assert built.virtio is not None
        (attached,) = built.virtio.attached
        seen: list[int] = []
        device.runtime.run_queue = seen.append  # type: ignore[method-assign]
        attached.transport.write(mmio.QUEUE_NOTIFY, 4, 0)
        built.loop.run_once(0)

        assert seen == [0]


@pytest.mark.parametrize("cpus", [1, 2])
def test_notification_of_a_disk_when_there_is_one_cpu_is_served_by_the_vcpu(
    cpus: int, tmp_path: Path
) -> None:
    mine = os.sched_getaffinity(0)
    if len(mine) < cpus:
        pytest.skip("this host has one CPU")
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    device = Block(RawDisk(str(tmp_path / "image")))
    device.own_thread = False
    os.sched_setaffinity(0, sorted(mine)[:cpus])
    try:
        with machine(device) as built:
            assert built.virtio is not None
            (attached,) = built.virtio.attached
            runtime = device.runtime
            by_vcpu, by_loop = [], []
            runtime.run_locked = lambda index, process=None: (  # type: ignore[method-assign]
                by_loop if process is None else by_vcpu
            ).append(index)

            def notify() -> list[int]:
                """How often the vCPU, and the loop, ran the queue."""
                by_vcpu.clear()
                by_loop.clear()
                attached.transport.write(mmio.QUEUE_NOTIFY, 4, 0)
                built.loop.run_once(0)
                return [len(by_vcpu), len(by_loop)]

            at_once = notify()
            with runtime.lock:
                attached.transport.write(mmio.QUEUE_NOTIFY, 4, 0)
            built.loop.run_once(0)
            at_work = [len(by_vcpu), len(by_loop)]
            with contextlib.suppress(KvmError):
                doorbell(attached, built.vm)(0, True)  # refused where it is assigned already
                at_work.append(0)
    finally:
        os.sched_setaffinity(0, mine)

    assert at_once == ([1, 0] if cpus == 1 else [0, 1])
    assert at_work == ([1, 1, 0] if cpus == 1 else [0, 2])


def test_notification_of_an_observed_disk_when_there_is_one_cpu_is_served_by_the_loop(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    device = Block(RawDisk(str(tmp_path / "image")))
    os.sched_setaffinity(0, sorted(mine)[:1])
    try:
        with machine(device, inject="disk0:drop-kick") as built:
            assert built.virtio is not None
            (attached,) = built.virtio.attached
            with pytest.raises(KvmError):
                doorbell(attached, built.vm)(0, True)  # it is assigned
    finally:
        os.sched_setaffinity(0, mine)


@pytest.mark.parametrize("external_first", [False, True])
def test_interrupt_when_shared_is_one_line_and_an_eventfd_beside_others_queues(external_first: bool) -> None:
    class External(Copier):
        external = True

    ours = [Copier() for _ in range(40)]
    others = [External(), External()]
    with machine(*([*others, *ours] if external_first else [*ours, *others])) as built:
        assert built.virtio is not None
        lines: dict[int, set[Line]] = {}
        for attached in built.virtio.attached:
            lines.setdefault(attached.gsi, set()).add(attached.line)
            assert attached.transport.interrupt.line is attached.line
        assert len(lines) < 40
        assert {len(same) for same in lines.values()} == {1}
        outside = [attached for attached in built.virtio.attached if attached.device in others]
        for device, attached in zip(others, outside, strict=True):
            assert isinstance(attached.line, EventLine)
            eventfds = (*device.runtime.kicks, device.runtime.interrupt)
            assert eventfds == (*attached.kicks, attached.line.fd)
        with_others = {attached.gsi for attached in outside}
        events = {gsi for gsi, same in lines.items() if isinstance(next(iter(same)), EventLine)}
        assert events == with_others
