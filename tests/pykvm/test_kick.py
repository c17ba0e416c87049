"""Stopping vCPUs that would not come out by themselves."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

import pytest

from pyvmm.pykvm import KvmError
from pyvmm.pykvm.kick import KICK_SIGNAL, Kick
from tests.support.real_mode import DATA, HLT, SPIN, STI, RealMode, put

pytestmark = pytest.mark.kvm
Guest = Callable[..., RealMode]

LIMIT = 0.1  # seconds


class Runner:
    """Runs a guest in a thread of its own; every kick that arrives is one return."""

    def __init__(self, machine: RealMode) -> None:
        self.machine = machine
        self.stop = False
        self.returned = threading.Semaphore(0)
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        vcpu, kick = self.machine.vcpu, self.machine.kick
        try:
            with kick.attached():
                while not self.stop:
                    if vcpu.run_raw() < 0:
                        assert vcpu.last_errno() == errno.EINTR
                        kick.consume()
                        self.returned.release()
        except BaseException as error:
            self.errors.append(error)

    def end(self) -> None:
        self.stop = True
        self.machine.kick.kick()
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.errors == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the guest did not start"
        time.sleep(0.001)


# "mov byte [DATA], 1" shows that the guest runs.
@pytest.mark.parametrize(("name", "code"), [("spinning", SPIN), ("halted", STI + HLT)])
def test_kick_when_guest_is_in_kvm_run_stops_it_every_time(guest: Guest, name: str, code: bytes) -> None:
    machine = guest(put(DATA, 1) + code, irqchip=True)
    runner = Runner(machine)
    times = []
    try:
        wait_until(lambda: machine.memory[DATA] == 1)
        for _ in range(100):
            start = time.monotonic()
            machine.kick.kick()
            assert runner.returned.acquire(timeout=5), f"a kick of a {name} guest was lost"
            times.append(time.monotonic() - start)
    finally:
        runner.end()

    # A busy machine may not have run the thread in time now and then.
    assert sorted(times)[95] < LIMIT


def test_kick_when_it_comes_before_the_thread_stops_the_first_run(guest: Guest) -> None:
    machine = guest(SPIN)

    machine.kick.kick()

    with machine.kick.attached():
        assert machine.vcpu.run_raw() == -1
        assert machine.vcpu.last_errno() == errno.EINTR


def test_kick_when_two_threads_send_them_at_any_time_loses_none(guest: Guest) -> None:
    machine = guest(SPIN)
    runner = Runner(machine)
    done = threading.Barrier(3)

    def send() -> None:
        for _ in range(200):
            machine.kick.kick()
        done.wait()

    try:
        for _ in range(2):
            threading.Thread(target=send).start()
        done.wait(30)
        while runner.returned.acquire(timeout=0.2):
            pass  # those that were under way

        machine.kick.kick()

        assert runner.returned.acquire(timeout=5)
    finally:
        runner.end()


def test_consume_when_done_lets_the_guest_run_on(guest: Guest) -> None:
    machine = guest(put(DATA, 1) + HLT)
    machine.kick.kick()

    with machine.kick.attached():
        assert machine.vcpu.run_raw() == -1
        machine.kick.consume()
        assert machine.vcpu.run_raw() == 0

    assert machine.memory[DATA] == 1


def test_attached_when_left_with_a_signal_pending_spares_the_process(guest: Guest) -> None:
    machine = guest(HLT)

    with machine.kick.attached():
        machine.kick.kick()

    with open("/proc/thread-self/status") as status:
        lines = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert int(lines["SigPnd"], 16) >> KICK_SIGNAL - 1 & 1 == 0
    assert int(lines["SigBlk"], 16) >> KICK_SIGNAL - 1 & 1 == 0


def test_attached_when_another_thread_runs_the_vcpu_is_refused(guest: Guest) -> None:
    machine = guest(HLT)

    with machine.kick.attached(), pytest.raises(KvmError, match=r"another thread runs it already"):
        machine.kick.attached().__enter__()


def test_kick_when_thread_has_left_or_vcpu_is_closed_does_no_harm(guest: Guest) -> None:
    machine = guest(HLT)
    kick = Kick(machine.vcpu)
    with kick.attached():
        pass

    kick.kick()
    machine.vcpu.close()
    kick.kick()
