"""A tap: sees everything that passes between one device and its driver.

The device, its queues and its transport get classes derived from their own, with methods that
tell the tap and go on. So it does not matter where references to them are kept, and a device without a
tap pays nothing. Taps can be stacked: the last one installed sees first what comes from the device.
"""

from __future__ import annotations

from pyvmm.virtio.ring.chain import Chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.ring.queue import Queue
    from pyvmm.virtio.transport.mmio import VirtioMmio

USED, CONFIGURATION, NEEDS_RESET = "used buffers", "configuration change", "needs reset"


def overlay(thing: Any, **methods: Callable[..., Any]) -> Any:
    """Give *thing* a class derived from its present one, with *methods*; returns the present one."""
    below = type(thing)
    names = {"__slots__": (), "__module__": below.__module__, "__doc__": below.__doc__}
    thing.__class__ = type(below.__name__, (below,), {**names, **methods})
    return below


def bytes_of(views: list[memoryview], limit: int) -> bytes:
    """The first *limit* bytes of *views*, copied."""
    parts = []
    for view in views:
        if limit <= 0:
            break
        parts.append(bytes(view[:limit]))
        limit -= len(parts[-1])
    return b"".join(parts)


class Tap:
    """What to do when something passes: a subclass fills in what it wants. Any thread."""

    def started(self, device: VirtioDevice) -> None:
        """The driver set DRIVER_OK."""

    def stopped(self, device: VirtioDevice) -> None:
        """The driver reset the device, or the machine is over."""

    def closed(self) -> None:
        """The machine is over."""

    def read(self, offset: int, size: int, value: int) -> None:
        """The driver read *value* from the registers; the configuration space begins at ``mmio.CONFIG``."""

    def wrote(self, offset: int, size: int, value: int) -> None:
        """The driver is about to write *value* to the registers."""

    def kicked(self, queue: int) -> None:
        """The device is told that *queue* has chains."""

    def popped(self, queue: int, chain: Chain) -> None:
        """The device took *chain*; nothing of it is written yet."""

    def pushed(self, queue: int, chain: Chain, written: int) -> None:
        """The device gives *chain* back. Its views are empty when it was refused as broken."""

    def interrupted(self, cause: str) -> None:
        """The driver is interrupted."""

    def install(self, device: VirtioDevice, transport: VirtioMmio | None) -> None:
        """Look at *device* from now on, before its driver has started it."""
        _tap_device(self, device)
        if not device.external:
            for queue in device.queues:
                _tap_queue(self, queue)
        if transport is not None:
            _tap_transport(self, transport)


def _tap_device(tap: Tap, device: VirtioDevice) -> None:
    def started(self: Any) -> None:
        tap.started(self)
        below.started(self)

    def stopped(self: Any) -> None:
        below.stopped(self)
        tap.stopped(self)

    def run_queue(self: Any, index: int) -> None:
        tap.kicked(index)
        below.run_queue(self, index)

    def close(self: Any) -> None:
        below.close(self)
        tap.closed()

    below = overlay(device, started=started, stopped=stopped, run_queue=run_queue, close=close)


def _tap_queue(tap: Tap, queue: Queue) -> None:
    # Chains that the device has: it may give them back by their heads alone.
    taken: dict[int, Chain] = {}

    def reset(self: Any) -> None:
        taken.clear()
        below.reset(self)

    def activate(self: Any, memory: Any, features: int) -> None:
        below.activate(self, memory, features)
        self._main = (0, 0, None)  # no short cuts: every chain comes by ``pop``

    def pop(self: Any) -> Chain | None:
        chain: Chain | None = below.pop(self)
        if chain is not None:
            taken[chain.head] = chain
            tap.popped(self.index, chain)
        return chain

    def push(self: Any, chain: Chain, written: int) -> None:
        tap.pushed(self.index, taken.pop(chain.head, chain), written)
        below.push(self, chain, written)

    def give_back(self: Any, head: int, written: int) -> None:
        self.push(taken.get(head) or Chain(head, [], []), written)

    below = overlay(queue, reset=reset, activate=activate, pop=pop, push=push, give_back=give_back)


def _tap_transport(tap: Tap, transport: VirtioMmio) -> None:
    def read(self: Any, offset: int, size: int) -> int:
        value: int = below.read(self, offset, size)
        tap.read(offset, size, value)
        return value

    def write(self: Any, offset: int, size: int, value: int) -> None:
        tap.wrote(offset, size, value)
        below.write(self, offset, size, value)

    def used(self: Any, queue: int) -> None:
        tap.interrupted(USED)
        below.used(self, queue)

    def config(self: Any) -> None:
        tap.interrupted(CONFIGURATION)
        below.config(self)

    def needs_reset(self: Any) -> None:
        tap.interrupted(NEEDS_RESET)
        below.needs_reset(self)

    below = overlay(transport, read=read, write=write, used=used, config=config, needs_reset=needs_reset)
