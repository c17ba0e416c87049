"""Linux's own balloon driver against the device: memory leaves the guest and comes back. Needs hardware."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from pyvmm.virtio.balloon.device import Balloon
from tests.support.native import ARM64
from tests.support.process import mapping_of
from tests.support.shell import Shell

pytestmark = [pytest.mark.hw, pytest.mark.timeout(300)]

MIB = 1 << 20
#: MiB of the guest's 256 that it uses, and that the balloon takes; each page costs two faults, emulated.
USED, TAKEN = (48, 16) if ARM64 else (160, 64)
#: Seconds the guest gets for what the host asked; an emulated one on a busy machine needs a minute.
PATIENCE = 120


class Guest(Shell):
    """A guest of 256 MiB with a balloon."""

    def __init__(self, balloon: Balloon) -> None:
        self.balloon = balloon
        super().__init__([balloon])
        self.run("mkdir /big; mount -t tmpfs -o size=100% none /big")  # /tmp takes half of RAM at most

    @property
    def resident(self) -> int:
        """Bytes of the host's memory that guest RAM takes."""
        total = 0
        for region in self.machine.memory.regions:
            if not region.readonly:
                entry = mapping_of(region.address)
                assert entry is not None
                total += int(entry["Rss"].split()[0]) << 10
        return total

    def memory(self, name: str) -> int:
        """A line of the guest's /proc/meminfo, in bytes."""
        return int(self.run(f"grep ^{name}: /proc/meminfo").split()[1]) << 10

    def use(self, mib: int) -> None:
        """Have the guest use *mib* MiB more, and free them again."""
        self.run(f"dd if=/dev/zero of=/big/used bs=1M count={mib} 2>/dev/null")
        self.run("rm /big/used")

    def reach(self, size: int) -> None:
        """Set the target and wait for the guest to get there."""
        self.balloon.target = size
        until(lambda: self.balloon.actual == size)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the guest did not do it in time"
        time.sleep(0.05)


@pytest.fixture(scope="class")
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    guest = Guest(Balloon(**request.cls.OPTIONS))
    yield guest
    guest.close()


class TestBalloon:
    OPTIONS = {"stats": 0.5}

    def test_memory_when_inflated_leaves_the_guest_and_comes_back(self, guest: Guest) -> None:
        guest.use(USED)
        total, resident = guest.memory("MemTotal"), guest.resident

        guest.reach(TAKEN * MIB)
        inflated, left = guest.memory("MemTotal"), guest.resident
        guest.reach(0)

        assert resident > USED * MIB
        assert total - inflated == TAKEN * MIB
        # A page that the guest had never touched gives nothing back; it takes some of these, too.
        assert resident - left > TAKEN * MIB // 2, f"{resident >> 20} MiB before, {left >> 20} after"
        assert guest.memory("MemTotal") == total
        assert guest.balloon.refused == 0

    def test_memory_when_it_came_back_is_usable(self, guest: Guest) -> None:
        guest.reach(TAKEN * MIB)
        guest.reach(0)

        guest.use(USED)

        assert guest.resident > USED * MIB

    def test_stats_when_an_interval_is_given_keep_coming_and_are_the_guests(self, guest: Guest) -> None:
        first = guest.balloon.reports
        until(lambda: guest.balloon.reports > first + 2)

        total = guest.memory("MemTotal")
        free = guest.memory("MemFree")
        assert guest.balloon.stats["total_memory"] == total
        assert abs(guest.balloon.stats["free_memory"] - free) < 8 * MIB

    def test_driver_when_unbound_and_bound_in_a_loop_gives_memory_back_and_inflates_again(
        self, guest: Guest
    ) -> None:
        driver = "/sys/bus/virtio/drivers/virtio_balloon"
        guest.reach(TAKEN // 4 * MIB)
        total = guest.memory("MemTotal")

        guest.run(f"basename {driver}/virtio* > /tmp/name")
        for _ in range(10):
            guest.run(f"cat /tmp/name > {driver}/unbind; cat /tmp/name > {driver}/bind")

        until(lambda: guest.memory("MemTotal") == total)
        guest.reach(0)
        assert guest.memory("MemTotal") == total + TAKEN // 4 * MIB


class TestReportingBalloon:
    OPTIONS = {"deflate_on_oom": True, "reporting": True}

    def test_memory_when_the_guest_frees_it_goes_back_to_the_host_by_itself(self, guest: Guest) -> None:
        guest.run(f"dd if=/dev/zero of=/big/used bs=1M count={2 * TAKEN} 2>/dev/null")
        used = guest.resident

        guest.run("rm /big/used")

        until(lambda: guest.resident < used - TAKEN * MIB)

    def test_balloon_when_the_guest_runs_out_of_memory_shrinks(self, guest: Guest) -> None:
        guest.reach(150 * MIB)

        guest.run("dd if=/dev/zero of=/big/used bs=1M count=80 2>/dev/null")

        assert guest.balloon.actual < 150 * MIB
        guest.run("rm /big/used")

    def test_stats_when_asked_for_come(self, guest: Guest) -> None:
        first = guest.balloon.reports

        guest.balloon.ask_stats()

        until(lambda: guest.balloon.reports > first)
        assert guest.balloon.stats["total_memory"] > 200 * MIB
