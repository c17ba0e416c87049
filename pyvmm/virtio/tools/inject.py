"""Faults for driver writers: ``--inject NAME:drop-kick=0.01,delay=5ms,needs-reset@t=3s,seed=7``.

Each kind of fault has a random number generator of its own, seeded with the seed, the device's name and the
kind: the same events meet the same faults in every run. What a good driver does at each is in
docs/guide/device-tools.md.
"""

from __future__ import annotations

from random import Random

from pyvmm.errors import ConfigError
from pyvmm.host.notice import notice
from pyvmm.units import parse_seconds
from pyvmm.virtio.errors import QueueError
from pyvmm.virtio.observer import Observer
from pyvmm.virtio.ring.chain import Chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.ring.queue import Queue

DROP_KICK = "drop-kick"
DELAY = "delay"
BAD_USED_ID = "bad-used-id"
SHORT_WRITE = "short-write"
NEEDS_RESET = "needs-reset"
#: Every kind, and how it is written.
KINDS = {
    DROP_KICK: "drop-kick[=PROBABILITY]",
    DELAY: "delay=TIME",
    BAD_USED_ID: "bad-used-id[=PROBABILITY]",
    SHORT_WRITE: "short-write[=PROBABILITY]",
    NEEDS_RESET: "needs-reset[@t=TIME]",
}
#: The most seconds an answer may be delayed.
MAX_DELAY = 3600.0


class Fault:
    """One kind, from *after* seconds on; *amount* is a probability, or the seconds of a delay."""

    __slots__ = ("after", "amount", "kind")

    def __init__(self, kind: str, amount: float, after: float) -> None:
        self.kind = kind
        self.amount = amount
        self.after = after


def parse(text: str) -> tuple[str, dict[str, Fault], int]:
    """``NAME:words``: the device, its faults by kind, the seed. Raises ConfigError."""
    name, colon, words = text.partition(":")
    what = f"--inject {name}"
    if not name or not colon or not words:
        raise ConfigError(
            f"--inject {text!r}: write NAME:FAULT,...; the faults are {', '.join(KINDS.values())}"
        )
    faults: dict[str, Fault] = {}
    seed = 0
    for word in words.split(","):
        head, at, when = word.partition("@")
        kind, equals, value = head.partition("=")
        if kind == "seed":
            seed = _seed(what, value)
            continue
        if kind not in KINDS:
            raise ConfigError(
                f"{what}: {kind!r} is no fault; the faults are {', '.join(KINDS.values())}, and seed=NUMBER"
            )
        if kind in faults:
            raise ConfigError(f"{what}: {kind} is given twice; leave one of them out")
        if at and not when.startswith("t="):
            raise ConfigError(f"{what}: {word!r}: what follows @ is t=TIME, from when on the fault is there")
        after = parse_seconds(when[2:], f"{what} {kind}") if at else 0.0
        faults[kind] = Fault(kind, _amount(f"{what}: {word}", kind, value if equals else None), after)
    if not faults:
        raise ConfigError(f"{what}: there is no fault; the faults are {', '.join(KINDS.values())}")
    return name, faults, seed


def _seed(what: str, value: str) -> int:
    try:
        return int(value, 0)
    except ValueError:
        raise ConfigError(f"{what}: seed={value} is not a whole number") from None


def _amount(what: str, kind: str, value: str | None) -> float:
    if kind == DELAY:
        if value is None:
            raise ConfigError(f"{what} needs a time: {KINDS[kind]}, such as delay=5ms")
        return min(parse_seconds(value, what), MAX_DELAY)
    if value is None:
        return 1.0
    if kind == NEEDS_RESET:
        raise ConfigError(f"{what}: it happens once and takes no value: {KINDS[kind]}")
    try:
        probability = float(value)
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise ConfigError(f"{what}: {value!r} is no probability; give a number from 0 to 1")
    return probability


def check(device: VirtioDevice) -> None:
    """Raise ConfigError unless faults of *device* can be made."""
    if device.external:
        raise ConfigError(f"--inject {device.name}: its queues are served outside this process; leave it out")


class Injector(Observer):
    """Makes *faults* of *device* happen. Raises ConfigError for an external device.

    :param seed: any whole number; the same one makes the same faults happen at the same events
    """

    registers = False

    def __init__(self, device: VirtioDevice, faults: dict[str, Fault], seed: int) -> None:
        check(device)
        self._device = device
        self._faults = faults
        self._dice = {kind: Random(f"{seed} {device.name} {kind}") for kind in faults}
        self._began: float | None = None
        self._reset_done = False
        #: How often each kind happened.
        self.count = dict.fromkeys(faults, 0)

    def started(self) -> None:
        """The driver set DRIVER_OK."""
        runtime, fault = self._device.runtime, self._faults.get(NEEDS_RESET)
        if self._began is None:
            self._began = runtime.timers.clock()
        if fault is not None and not self._reset_done:
            passed = runtime.timers.clock() - self._began
            runtime.later(max(0.0, fault.after - passed), self._break)

    def drops(self, queue: int) -> bool:
        """Whether a notification is lost."""
        return self._hits(DROP_KICK)

    def alter(self, queue: Queue, chain: Chain, written: int) -> tuple[Chain, int, float]:
        """Another head, another length, a delay."""
        if written and self._hits(SHORT_WRITE):
            written = self._dice[SHORT_WRITE].randrange(written)
        if self._hits(BAD_USED_ID):
            chain = Chain(chain.head + queue.size, chain.readable, chain.writable)
        return chain, written, self._faults[DELAY].amount if self._hits(DELAY) else 0.0

    def _hits(self, kind: str) -> bool:
        """Whether a fault of *kind* happens to the event at hand."""
        fault = self._faults.get(kind)
        if fault is None:
            return False
        # Diced for each event, so that when a fault begins does not change which ones it hits.
        hit = kind == DELAY or self._dice[kind].random() < fault.amount
        if not hit or self._began is None or self._device.runtime.timers.clock() - self._began < fault.after:
            return False
        self._tell(kind)
        return True

    def _break(self) -> None:
        self._reset_done = True
        self._tell(NEEDS_RESET)
        raise QueueError("the fault needs-reset was injected")

    def _tell(self, kind: str) -> None:
        self.count[kind] += 1
        notice(f"inject {self._device.name} {kind}", f"{self._device.name}: injected {kind}")
