"""What runs one virtio device: queues, kicks, timers, watched descriptors, start, stop, hold.

A transport talks to the runtime, the runtime to the device's hooks. Everything of the device runs in one
event loop with ``lock`` held, so nothing of it runs at the same time, and nothing after ``stop``.
"""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial
from time import monotonic

from pyvmm.errors import GuestError, PyvmmError
from pyvmm.host.notice import notice
from pyvmm.loop import TURN
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.virtio.errors import ChainError
from pyvmm.virtio.hooks import DEFERRED
from pyvmm.virtio.ring.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm.board.timers import Cancellable, Timers
    from pyvmm.loop import Loop
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.virtio.hooks import DeviceHooks
    from pyvmm.virtio.observer import Observer
    from pyvmm.virtio.ring.chain import Chain

#: After how many chains the time is looked at (a power of two).
_LOOK = 8
#: From this many timers on, those that were cancelled or have fired are removed from the set of them.
_SWEEP = 64


class Transport:
    """How a runtime reaches the driver and the machine; every transport is one. Any thread."""

    def used(self, queue: int) -> None:
        """Interrupt the driver for used elements in *queue*."""

    def config_changed(self) -> None:
        """Interrupt the driver for a change of the configuration space."""

    def needs_reset(self) -> None:
        """Tell the driver that the device serves nothing until it is reset (2.1.1)."""

    def kick(self, queue: int) -> None:
        """Run *queue* again soon, as if the driver had notified the device."""

    def failed(self, error: Exception) -> None:
        """The device's own code raised *error*: a defect of the device."""
        raise error


class Runtime:
    """Runs *device*.

    Callbacks made by ``watch``, ``later`` and ``soon`` run in the device's loop thread, one at a time with
    its ``handle`` and ``process``, and only while the driver has the device running; a reset drops them.
    While the device is held, after a save, they stay pending until the machine goes on. A GuestError that a
    callback raises stops the device until the driver resets it; any other error is a defect and ends the
    machine.
    """

    def __init__(self, device: DeviceHooks) -> None:
        self.device = device
        #: The device's queues by number, from ``attach`` on.
        self.queues: list[Queue] = []
        #: The device's event loop, from ``attach`` on.
        self.loop: Loop
        #: The clock that ``later`` goes by, from ``attach`` on: the machine's, which stands still while the
        #: machine is paused; the loop's own where there is no machine.
        self.timers: Timers
        #: Guest memory, from the first start on.
        self.memory: GuestMemory
        #: What the driver accepted; 0 before the start.
        self.driver_features = 0
        #: True while the driver has the device running.
        self.active = False
        #: True between a save and a load, a reset, or the moment when the machine goes on.
        self.held = False
        #: True while ``stop`` waits for what is under way: long work should end early.
        self.stopping = False
        #: True from a load on until the reset after it.
        self.restored = False
        #: Held while anything of the device runs; ``stop`` therefore waits for it.
        self.lock = allocate_lock()
        #: Who sees what passes between the device and its driver.
        self.observers: tuple[Observer, ...] = ()
        #: Eventfds of an external device: each queue's notifications, and the interrupt.
        self.kicks: Sequence[int] = ()
        self.interrupt = -1
        self._transport = Transport()
        self._process: Callable[[Queue], None] = device.process
        # Between a start and the reset; ``active`` ends earlier when the device is halted.
        self._begun = False
        # Active and not held: the one condition looked at before anything runs.
        self._serving = False
        # Counts starts and stops: a callback is dropped after the stop that follows it.
        self._generation = 0
        self._watched: dict[int, tuple[int, Callable[[int], object]]] = {}
        self._timers: set[Cancellable] = set()
        # While held. Watched descriptors that are ready: out of the loop, so that it does not turn for them.
        self._parked: set[int] = set()
        # What is to be called when the machine goes on, in order; a kick is there once a queue.
        self._deferred: dict[object, Callable[[], object]] = {}
        # Whether a change of the configuration is among them: there may be any number of changes.
        self._config_due = False

    # For a device

    def serve(self, queue: Queue) -> None:
        """Call the device's ``handle`` for the chains of a ``turn`` of *queue*; then publish.

        Raises TypeError when ``handle`` returns neither None nor DEFERRED.
        """
        # The loop of ``turn``: a generator would cost 4 % of a small request.
        pop, left, handle, index = queue.pop, queue.size, self.device.handle, queue.index
        end = monotonic() + TURN
        queue.disable_notification()
        while True:
            while left and (chain := pop()) is not None:
                left -= 1
                try:
                    result = handle(index, chain)
                except (ChainError, GuestMemoryError) as error:
                    self.refuse(error)
                    result = None
                if result is None:
                    queue.push(chain, chain.written)
                elif result is not DEFERRED:
                    raise TypeError(
                        f"handle() returned {result!r}; it returns nothing for a request that is done, "
                        "of which chain.written is the length, and DEFERRED for one that complete() ends"
                    )
                if self.stopping:
                    return  # the queue is about to be reset
                if not left & (_LOOK - 1) and monotonic() > end:
                    left = 0
            if not left:
                self._transport.kick(index)
                break
            if not queue.enable_notification():
                break
            queue.disable_notification()
        self.publish(queue)

    def turn(self, queue: Queue) -> Iterator[Chain]:
        """The chains of *queue* that one turn of the loop serves, until there are no more.

        A queue's length of them at most, for TURN seconds and some chains; the queue is run again then. The
        turn ends when the device is to stop. The driver need not notify the device meanwhile. The caller
        publishes.
        """
        pop, left = queue.pop, queue.size
        end = monotonic() + TURN
        queue.disable_notification()
        while True:
            while left and (chain := pop()) is not None:
                left -= 1
                yield chain
                if self.stopping:
                    return  # the queue is about to be reset
                if not left & (_LOOK - 1) and monotonic() > end:
                    left = 0
            if not left:
                self._transport.kick(queue.index)
                return
            if not queue.enable_notification():
                return
            queue.disable_notification()

    def refuse(self, error: Exception) -> None:
        """Tell the user, at a limited rate, of a request that broke a rule."""
        name = self.device.name
        notice(f"virtio {name}", f"{name}: a request of the driver's was refused: {error}")

    def complete(self, index: int, chain: Chain) -> None:
        """Push *chain* to queue *index* with length ``chain.written``, and publish. In the device's loop."""
        queue = self.queues[index]
        queue.push(chain, chain.written)
        self.publish(queue)

    def publish(self, queue: Queue) -> None:
        """Make what was pushed to *queue* visible to the driver, and interrupt it if it wants that."""
        if queue.publish():
            self._transport.used(queue.index)

    def interrupt_driver(self, index: int) -> None:
        """Interrupt the driver for used elements in queue *index*, which are published. Any thread."""
        self._transport.used(index)

    def config_changed(self) -> None:
        """Tell the driver that fields of the configuration space have changed. Any thread."""
        if not self.held:
            if self.active:
                self._transport.config_changed()
        elif not self._config_due:
            self._config_due = True
            self.soon(self._deferred_config_change)

    def kick(self, index: int) -> None:
        """Run queue *index* again in a later turn of the loop. Any thread."""
        self._transport.kick(index)

    def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Have ``callback(events)`` called when *fd* is ready, until a reset. With ``lock`` held.

        *events* is READ, WRITE or both of ``pyvmm.loop``.
        """
        guarded = self._guarded(callback, fd)
        self._watched[fd] = events, guarded
        self.loop.add(fd, events, guarded)

    def rewatch(self, fd: int, events: int) -> None:
        """Wait for other *events* of a watched *fd*."""
        if fd not in self._parked:
            self.loop.modify(fd, events)
        self._watched[fd] = events, self._watched[fd][1]

    def unwatch(self, fd: int) -> None:
        """Watch *fd* no more; nothing happens when it is not watched."""
        if self._watched.pop(fd, None) is not None:
            self._parked.discard(fd)
            self.loop.remove(fd)

    def later(self, seconds: float, callback: Callable[[], object]) -> Cancellable:
        """Have *callback* called once after *seconds* (>= 0) of ``timers``, unless a reset comes first.

        With ``lock`` held.
        """

        def fire() -> None:
            self._timers.discard(timer)
            if not timer.cancelled:  # while the device was held
                callback()

        # Guarded, so that it cannot fire before ``timer`` is assigned, in whatever thread this runs.
        timer = self.timers.call_later(seconds, self._guarded(fire))
        if len(self._timers) >= _SWEEP:
            self._timers = {timer for timer in self._timers if timer.active}
        self._timers.add(timer)
        return timer

    def soon(self, callback: Callable[[], object]) -> None:
        """Have *callback* called in the loop's next turn, if the device is still running. Any thread."""
        self.loop.call_soon(self._guarded(callback))

    def halt(self, error: PyvmmError) -> None:
        """Serve nothing until the driver resets the device, and tell it so. With ``lock`` held."""
        device = self.device
        device.halted(error)
        self.active = self._serving = False
        self._drop_callbacks()  # a descriptor that nobody reads would keep the loop turning
        notice(f"virtio {device.name} halted", f"{device.name} stopped until its driver resets it: {error}")
        self._transport.needs_reset()

    # For a transport

    def attach(self, loop: Loop, observers: Sequence[Observer] = (), timers: Timers | None = None) -> None:
        """Run the device in *loop*, seen by *observers*, the nearest to the device first.

        *timers* makes its calls in *loop*'s thread; without it, ``later`` goes by the loop's own clock.
        Once, before everything below. Raises what the device's ``attached`` raises.
        """
        device = self.device
        self.loop, self.timers = loop, timers or loop
        self.observers = tuple(observers)
        if self.observers and not device.external:
            from pyvmm.virtio.observer import ObservedQueue

            self.queues = [
                ObservedQueue(index, size, self.observers, self._push_later, self.kick)
                for index, size in enumerate(device.queue_sizes)
            ]
            self._process = self._process_observed
        else:
            self.queues = [
                Queue(index, size, device.indirect_vectors, self.kick)
                for index, size in enumerate(device.queue_sizes)
            ]
        device.attached()

    def assign_eventfds(self, kicks: Sequence[int], interrupt: int) -> None:
        """Give an external device the eventfds of its queues, *kicks*, and of its *interrupt*."""
        self.kicks, self.interrupt = kicks, interrupt

    def start(self, memory: GuestMemory, features: int, transport: Transport) -> None:
        """The driver is ready: check the queues that it made ready, and begin. Any thread.

        Raises QueueError, or what ``started`` raises; the device is then not running.
        """
        device = self.device
        with self.lock:
            self.memory, self.driver_features, self._transport = memory, features, transport
            if not device.external:
                for queue in self.queues:
                    if queue.ready:
                        queue.activate(memory, features)
            self._generation += 1
            self.held = False
            self.active = self._begun = self._serving = True
            for observer in self.observers:
                observer.started()
            try:
                device.started()
            except BaseException:
                self.active = self._begun = self._serving = False
                self._drop_callbacks()
                raise

    def stop(self) -> None:
        """The driver reset the device, or the machine is over. Waits for what is under way. Any thread."""
        self.stopping = True
        with self.lock:
            begun = self._begun
            self.active = self._begun = self._serving = False
            self._generation += 1
            self._drop_callbacks()
            try:
                if begun:
                    self.device.stopped()
                    for observer in self.observers:
                        observer.stopped()
            finally:
                self.held = self.restored = self.stopping = False
                for queue in self.queues:
                    queue.reset()
                self.driver_features = 0

    def close(self) -> None:
        """Close the device, which is stopped, and its observers. Idempotent."""
        try:
            self.device.close()
        finally:
            for observer in self.observers:
                observer.closed()

    def run_queue(self, index: int) -> None:
        """The driver notified queue *index*. In the device's loop; nothing happens in a stopped device."""
        with self.lock:
            self.run_locked(index)

    def run_locked(self, index: int, process: Callable[[Queue], None] | None = None) -> None:
        """As ``run_queue``, with ``lock`` held; by *process* instead of the device's."""
        if not self._serving:
            if self.active:
                self._deferred.setdefault(index, partial(self.run_queue, index))
            return
        queue = self.queues[index]
        if not queue.ready:
            return
        if queue.exhausted:
            queue.begin_turn()
        try:
            (process or self._process)(queue)
        except GuestError as error:
            self.halt(error)
        except Exception as error:
            self._transport.failed(error)

    def hold(self) -> None:
        """Run nothing until ``release`` or ``stop``. With ``lock`` held; the vCPUs are paused."""
        self.device.before_save()
        if self.active:
            for queue in self.queues:
                self.publish(queue)  # the saved state says that the driver was told of what was pushed
        self.held, self._serving = True, False

    def release(self) -> None:
        """The machine goes on: run what is pending. Any thread, with ``lock`` held, when ``held``."""
        self.held, self._serving = False, self.active
        deferred, self._deferred = self._deferred, {}
        for callback in deferred.values():
            self.loop.call_soon(callback)
        self.device.resumed()

    # Inside

    def _process_observed(self, queue: Queue) -> None:
        if any(observer.drops(queue.index) for observer in self.observers):
            return
        for observer in self.observers:
            observer.kicked(queue.index)
        self.device.process(queue)

    def _push_later(self, queue: Queue, seconds: float, push: Callable[[], object]) -> None:
        def late() -> None:
            push()
            self.publish(queue)

        self.later(seconds, late)

    def _drop_callbacks(self) -> None:
        for fd in list(self._watched):
            self.unwatch(fd)
        for timer in list(self._timers):
            timer.cancel()
        self._timers.clear()
        self._deferred.clear()
        self._config_due = False

    def _guarded(self, callback: Callable[..., object], fd: int = -1) -> Callable[..., None]:
        """*callback*, of events of *fd* if it is given, with ``lock`` held, and not after the next stop."""
        generation = self._generation

        def guarded(*arguments: object) -> None:
            with self.lock:
                if not self._serving or self._generation != generation:
                    if self.active and self._generation == generation:
                        self._defer(guarded, fd)
                    return
                try:
                    callback(*arguments)
                except GuestError as error:
                    self.halt(error)
                except Exception as error:
                    self._transport.failed(error)

        return guarded

    def _deferred_config_change(self) -> None:
        self._config_due = False
        self.config_changed()

    def _defer(self, guarded: Callable[..., None], fd: int) -> None:
        """Call *guarded* when the machine goes on; a descriptor is watched again then instead."""
        if fd < 0:
            self._deferred[guarded] = guarded
        elif fd in self._watched:
            self.loop.remove(fd)
            self._parked.add(fd)
            again = self._guarded(partial(self._watch_again, fd))
            self._deferred[again] = again

    def _watch_again(self, fd: int) -> None:
        if fd in self._parked:
            self._parked.remove(fd)
            self.loop.add(fd, *self._watched[fd])
