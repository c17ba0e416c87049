"""The network device, driven by the fake driver: frames in, frames out, commands, link, state."""

from __future__ import annotations

import pytest

from pyvmm.backends.net.base import CSUM, TSO4, NetBackend
from pyvmm.virtio.errors import QueueError
from pyvmm.virtio.features import COMMON, F_EVENT_IDX, F_VERSION_1
from pyvmm.virtio.net import features as nf
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.transport.interrupt import CONFIG_CHANGE
from tests.support.net_driver import BROADCAST, HEADER, NetDriver, Wire, frame, wired

PLAIN = COMMON & ~F_EVENT_IDX
OWN = bytes.fromhex("525400000001")
MULTICAST = bytes.fromhex("01005e000001")
STRANGER = bytes.fromhex("525400000077")


# Receiving


def test_frame_when_a_buffer_holds_it_takes_one() -> None:
    with wired() as (driver, wire):
        driver.give(2048, 2048)
        wire.arrive(frame(100))

        assert driver.received() == [frame(100)]
        assert len(driver.rx.pending) == 1


def test_frame_when_buffers_are_small_is_spread_and_says_over_how_many() -> None:
    with wired() as (driver, wire):
        requests = driver.give(*[1000] * 70)
        wire.arrive(frame(65550))
        driver.run()
        driver.rx.collect()

        done = [request for request in requests if request.done]
        header = driver.rx.data(done[0])[:HEADER]
        assert len(done) == 66 == int.from_bytes(header[10:], "little")
        assert b"".join(driver.rx.data(request) for request in done)[HEADER:] == frame(65550)


@pytest.mark.parametrize("sizes", [[60] * 40, [12] * 200, [4096], [1500, 1500]])
def test_frames_of_all_lengths_arrive_whole_whatever_the_buffers(sizes: list[int]) -> None:
    frames = [frame(size) for size in (14, 60, 61, 300, 1500)]
    with wired() as (driver, wire):
        got = []
        for one in frames:
            driver.give(*sizes)
            wire.arrive(one)
            got += driver.received()
            driver.probe()

    assert got == frames


def test_frame_after_a_long_one_is_read_straight_into_as_many_buffers() -> None:
    with wired() as (driver, wire):
        driver.give(*[4096] * 64)
        wire.arrive(frame(60000), frame(60000), frame(20))

        assert driver.received() == [frame(60000), frame(60000), frame(20)]


def test_receive_when_there_are_no_buffers_leaves_frames_with_the_backend_until_there_are() -> None:
    with wired() as (driver, wire):
        wire.arrive(frame(100), frame(200))
        driver.run()
        idle = driver.loop.run_once(0)
        driver.give(2048)
        first = driver.received()
        driver.give(2048, 2048)
        second = driver.received()

    assert idle == 0
    assert (first, second) == ([frame(100)], [frame(200)])


def test_frame_when_buffers_are_too_few_waits_for_more_and_keeps_its_order() -> None:
    with wired() as (driver, wire):
        driver.give(500)
        wire.arrive(frame(2000), frame(30))
        early = driver.received()
        driver.give(*[500] * 6)

        assert early == []
        assert driver.received() == [frame(2000), frame(30)]


def test_burst_when_it_is_longer_than_the_budget_is_received_to_its_end() -> None:
    frames = [frame(60 + n) for n in range(150)]
    with wired() as (driver, wire):
        driver.give(*[1600] * 200)
        wire.arrive(*frames)

        assert driver.received() == frames


def test_interrupts_when_a_burst_comes_are_few() -> None:
    with wired(features=PLAIN | nf.F_MRG_RXBUF) as (driver, wire):
        driver.give(*[1600] * 60)
        before = driver.interrupts
        wire.arrive(*[frame(100)] * 50)
        driver.run()

        assert driver.interrupts - before == 1


# Without mergeable buffers


def test_frame_without_mergeable_buffers_fills_one_chain_of_several() -> None:
    with wired(features=COMMON) as (driver, wire):
        request = driver.rx.add([], [HEADER, 1000, 1000])
        driver.rx.kick()
        wire.arrive(frame(1500))
        driver.run()
        driver.rx.collect()

        data = driver.rx.data(request)
        assert data[10:12] == b"\1\0"
        assert data[HEADER:] == frame(1500)


# Sending


def test_sent_frame_reaches_the_backend_with_its_header_and_comes_back() -> None:
    with wired() as (driver, wire):
        request = driver.send(frame(700)[:14], frame(700)[14:])

        assert wire.sent() == [bytes(HEADER) + frame(700)]
    assert (request.done, request.written) == (True, 0)


def test_frames_when_the_backend_has_no_room_wait_and_are_sent_once() -> None:
    frames = [frame(60000 + n) for n in range(20)]
    with wired() as (driver, wire):
        for one in frames:
            driver.tx.add([bytes(HEADER) + one])
        driver.tx.kick()
        driver.run()
        early = len(driver.tx.collect())
        idle = driver.loop.run_once(0)
        got = wire.sent()
        while early + len(got) and len(got) < 20:
            driver.run()
            got += wire.sent()

    assert 0 < early < 20
    assert idle == 0
    assert [one[HEADER:] for one in got] == frames


def test_many_frames_at_once_are_all_sent_in_their_order() -> None:
    frames = [frame(60 + n) for n in range(120)]
    with wired() as (driver, wire):
        for one in frames:
            driver.tx.add([bytes(HEADER) + one])
        driver.tx.kick()
        driver.run()
        done = len(driver.tx.collect())

        assert done == 120
        assert [one[HEADER:] for one in wire.sent()] == frames


# Features


def test_offloads_are_those_of_the_backend() -> None:
    with NetDriver(Net(NetBackend()), start=False) as driver:
        plain = driver.offered()
    with NetDriver(Net(Wire()), start=False) as driver:
        full = driver.offered()

    offloads = sum(nf.GUEST_BITS.values()) | sum(nf.HOST_BITS.values())
    assert plain & offloads == 0
    assert full & offloads == offloads


def test_backend_is_told_what_the_driver_accepted_and_what_it_turns_off_later() -> None:
    accepted = F_VERSION_1 | nf.F_CTRL_VQ | nf.F_CTRL_GUEST_OFFLOADS | nf.F_GUEST_CSUM | nf.F_GUEST_TSO4
    with wired(features=accepted) as (driver, wire):
        status = driver.command(5, 0, nf.F_GUEST_CSUM.to_bytes(8, "little"))
        refused = driver.command(5, 0, nf.F_GUEST_TSO6.to_bytes(8, "little"))

    assert (status, refused) == (0, 1)
    assert wire.told == [CSUM | TSO4, CSUM]


def test_mtu_and_pairs_are_in_the_configuration() -> None:
    with NetDriver(Net(Wire(4), mtu=9000, pairs=4), start=False) as driver:
        offered = driver.offered()

        assert offered & nf.F_MTU and offered & nf.F_MQ
        assert (driver.config(8, 2), driver.config(10, 2)) == (4, 9000)


def test_made_up_address_is_local_to_one_station_and_the_same_for_the_same_seed() -> None:
    addresses = []
    for seed in ("one", "one", "two"):
        with NetDriver(Net(NetBackend(), seed=seed)) as driver:
            addresses.append(driver.device.mac)

    assert addresses[0] == addresses[1] != addresses[2]
    assert addresses[0][0] & 3 == 2


# The control queue


def test_filter_lets_pass_what_the_driver_asked_for_and_nothing_else() -> None:
    table = (1).to_bytes(4, "little") + STRANGER + (1).to_bytes(4, "little") + MULTICAST
    everything = [frame(60, to) for to in (OWN, STRANGER, MULTICAST, BROADCAST, b"\x52" * 6, b"\x33" * 6)]
    seen = []
    with wired() as (driver, wire):

        def look() -> None:
            driver.give(*[1600] * 6)
            wire.arrive(*everything)
            seen.append([one[:6] for one in driver.received()])

        look()
        assert driver.command(0, 0, b"\0") == 0  # no longer promiscuous
        look()
        assert driver.command(1, 0, table) == 0
        look()
        assert driver.command(0, 1, b"\1") == 0  # all multicast
        look()

    all_of_them = [one[:6] for one in everything]
    assert seen == [
        all_of_them,
        [OWN, BROADCAST],
        [OWN, STRANGER, MULTICAST, BROADCAST],
        [OWN, STRANGER, MULTICAST, BROADCAST, b"\x33" * 6],
    ]


def test_new_address_is_received_at_and_shown() -> None:
    with wired() as (driver, wire):
        driver.command(0, 0, b"\0")
        status = driver.command(1, 1, STRANGER)
        driver.give(1600, 1600)
        wire.arrive(frame(60, STRANGER), frame(60, OWN))

        assert status == 0
        assert [one[:6] for one in driver.received()] == [STRANGER]
        assert driver.device.mac == STRANGER


def test_pairs_when_more_than_offered_are_refused() -> None:
    with NetDriver(Net(Wire(2), pairs=2)) as driver:
        answers = [driver.command(4, 0, pairs.to_bytes(2, "little")) for pairs in (0, 1, 2, 3, 0x8000)]

    assert answers == [1, 0, 0, 1, 1]


def test_second_pair_is_received_from_once_the_driver_enables_it() -> None:
    wire = Wire(2)
    with NetDriver(Net(wire, pairs=2)) as driver:
        driver.give(1600)
        request = driver.queues[2].add([], [1600])
        wire.arrive(frame(60), pair=1)
        driver.run()
        early = driver.queues[2].collect()
        driver.command(4, 0, b"\2\0")
        driver.run()
        driver.queues[2].collect()

        assert early == []
        assert driver.queues[2].data(request)[HEADER:] == frame(60)


# The link


def test_link_down_is_shown_and_drops_frames_both_ways() -> None:
    with wired() as (driver, wire):
        driver.acknowledge()
        driver.device.set_link(False)
        cause, status = driver.acknowledge(), driver.config(6, 2)
        driver.give(1600, 1600)
        wire.arrive(frame(60))
        request = driver.send(frame(60))
        lost = driver.received()
        driver.device.set_link(True)
        wire.arrive(frame(61))

        assert (cause & 2, status, request.done, wire.sent(), lost) == (2, 0, True, [], [])
        assert driver.config(6, 2) == 1
        assert driver.received() == [frame(61)]


# Life


def test_device_when_reset_and_started_again_receives_again() -> None:
    with wired() as (driver, wire):
        for size in (100, 200, 300):
            driver.give(2048)
            wire.arrive(frame(size))
            assert driver.received() == [frame(size)]
            driver.probe()


def test_saved_device_when_loaded_into_another_goes_on() -> None:
    with wired() as (driver, wire):
        driver.command(0, 0, b"\0")
        driver.give(1600, 1600, 1600)
        wire.arrive(frame(60))
        assert driver.received() == [frame(60)]
        state = driver.transport.save()
        other_wire = Wire()
        other = NetDriver(Net(other_wire), memory=driver.memory, start=False)
        other.transport.load(state)
        other_wire.arrive(frame(61), frame(62, STRANGER), frame(63))
        other.run()

        assert driver.received() == [frame(61), frame(63)]
        assert other.device.mac == OWN
        other.close()


def test_saved_device_when_its_link_went_down_meanwhile_tells_so_once_loaded() -> None:
    with wired() as (driver, _):
        state = driver.transport.save()
        driver.device.set_link(False)
        driver.run()
        told_early = driver.acknowledge()
        driver.transport.load(state)

        assert (told_early, driver.config(6, 2), driver.acknowledge()) == (0, 0, CONFIG_CHANGE)


def test_saved_device_when_it_was_broken_begins_anew_after_its_drivers_reset() -> None:
    wire = Wire()
    with wired() as (driver, _):
        driver.command(0, 0, b"\0")  # not promiscuous: that ends with the driver's reset
        driver.device.runtime.halt(QueueError("a ring that is broken"))
        driver.replace(lambda: Net(wire, mac=OWN), driver.transport.save())
        driver.probe()
        driver.give(1600)
        wire.arrive(frame(60, STRANGER))

        assert driver.received() == [frame(60, STRANGER)]
