"""What a virtio device is made of, whatever transport carries it: the class to subclass."""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial

from pyvmm.errors import GuestError, PyvmmError
from pyvmm.host.notice import notice
from pyvmm.memory.errors import GuestMemoryError
from pyvmm.virtio.config_space import ConfigSpace
from pyvmm.virtio.errors import ChainError, StateError, check_version
from pyvmm.virtio.features import COMMON
from pyvmm.virtio.ring.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pyvmm.loop import Loop, Timer
    from pyvmm.memory.guest import GuestMemory
    from pyvmm.memory.host import HostMemory
    from pyvmm.virtio.ring.chain import Chain


VERSION = 1
#: Timers from which on the cancelled ones are forgotten.
_SWEEP = 64


class Signal:
    """How a device reaches its driver and its machine. The transport hands it a subclass."""

    def used(self, queue: int) -> None:
        """The driver wants to know of used elements in *queue*."""

    def config(self) -> None:
        """The configuration space has changed."""

    def needs_reset(self) -> None:
        """The device has stopped until the driver resets it (2.1.1)."""

    def kick(self, queue: int) -> None:
        """Run *queue* again soon, as if the driver had kicked it."""

    def prompt(self, queue: int, on: bool) -> bool:
        """The vCPU that kicks *queue* is to run it itself, or no more; returns whether it does."""
        return False

    def failed(self, error: Exception) -> None:
        """The device's own code raised *error*: a defect of the device."""
        raise error


class VirtioDevice:
    """One virtio device. A subclass declares what it is and says what a request does.

    ``handle`` and every callback made by ``watch``, ``later`` and ``soon`` run in the device's loop
    thread (in a vCPU's, too, where the device asked for it: ``prompt``), one at a time, and only while the
    driver has the device running. From ``save`` on they wait until the machine goes on: nothing of guest
    memory changes behind the back of what is saved. A GuestError that one of these callbacks raises stops
    the device until the driver resets it; any other error is a defect.
    """

    #: What the specification calls the device by (section 5).
    device_id = 0
    #: What users call it, in messages.
    name = "virtio"
    #: Feature bits of its own that it offers; VERSION_1, INDIRECT_DESC, EVENT_IDX come on top.
    features = 0
    #: What those bits are called, in messages and traces.
    feature_names: Mapping[int, str] = {}
    #: The largest size of each queue: powers of two.
    queue_sizes: Sequence[int] = ()
    #: Whether ``handle`` or ``kicked`` can do with a LongChain.
    long_chains = False
    #: Its configuration space: field names and types, see ConfigSpace.
    config_fields: Mapping[str, str] = {}
    #: Those the driver may write.
    config_writable: frozenset[str] = frozenset()
    #: True gives it a thread of its own, for work that blocks.
    own_thread = False
    #: True when somebody else runs its queues, from their eventfds: vhost.
    external = False
    #: True when another process serves it, which must be able to map guest RAM.
    shares_memory = False
    #: Host memory it shares with the guest besides RAM, by identifier (2.10).
    shared_regions: Mapping[int, HostMemory] = {}

    def __init__(self) -> None:
        self.config = ConfigSpace(self.config_fields, self.config_writable)
        self.queues = [Queue(index, size) for index, size in enumerate(self.queue_sizes)]
        for queue in self.queues:
            queue.long_chains = self.long_chains
        #: What the driver accepted.
        self.driver_features = 0
        #: True while the driver has the device running.
        self.active = False
        #: True while it stands still, since it was saved; kicks and callbacks wait.
        self.held = False
        #: Held while anything of the device runs; ``stop`` therefore waits for it.
        self.busy = allocate_lock()
        self.memory: GuestMemory
        self.loop: Loop
        self._signal = Signal()
        # Between a start and the reset; ``active`` ends earlier when the device breaks.
        self._begun = False
        # Active and not held: the one question asked before anything is done.
        self._serving = False
        # A callback belongs to the life of the device it was made in.
        self._life = 0
        self._watched: dict[int, tuple[int, Callable[[int], object]]] = {}
        self._timers: set[Timer] = set()
        # While held: watched descriptors that are ready, out of the loop so that it does not turn for them;
        # and what is to be called when the machine goes on, in order, a kick once a queue.
        self._parked: set[int] = set()
        self._deferred: dict[object, Callable[[], object]] = {}
        self._config_due = False  # one of them tells of the configuration: others may change it without end

    # For a subclass to fill in

    def handle(self, queue: int, chain: Chain) -> int | None:
        """Carry out one request; returns the bytes written, or None when ``complete`` comes later.

        Raises ChainError, or GuestMemoryError for an address inside a request, when it breaks the
        device's rules: it goes back as far as written.
        """
        raise NotImplementedError(f"{self.name} has queues and no handle()")

    def started(self) -> None:
        """The driver is ready (DRIVER_OK). Any thread; QueueError and OSError refuse the start."""

    def stopped(self) -> None:
        """The driver reset the device, or the machine is over. Any thread."""

    def config_written(self, offset: int, size: int) -> None:
        """The driver wrote a writable field. A vCPU's thread."""

    def config_read(self, offset: int, size: int) -> bytes:
        """What the driver reads of the configuration space, for one that depends on more than its fields."""
        return self.config.read(offset, size)

    def describe(self, queue: int, request: bytes) -> str:
        """What *request*, the first bytes that the driver gave to read, asks for: a few words for a trace."""
        return ""

    def close(self) -> None:
        """The machine is over, the device stopped: give the host's objects back. Idempotent."""

    # For a subclass to use

    def has(self, feature: int) -> bool:
        """Whether the driver accepted *feature* (a mask of one bit)."""
        return self.driver_features & feature != 0

    def kicked(self, queue: Queue) -> None:
        """The driver says that *queue* has chains: serve them, a queue's length at most, then tell it."""
        handle, index, left = self.handle, queue.index, queue.size
        queue.disarm()
        while True:
            while left and (chain := queue.pop()) is not None:
                left -= 1
                try:
                    written = handle(index, chain)
                except (ChainError, GuestMemoryError) as error:
                    self.refuse(error)
                    written = chain.written
                if written is not None:
                    queue.push(chain, written)
            if not left:
                self._signal.kick(index)
                break
            if not queue.arm():
                break
            queue.disarm()
        self.publish(queue)

    def refuse(self, error: Exception) -> None:
        """Tell the user, at a limited rate, of a request that broke a rule."""
        notice(f"virtio {self.name}", f"{self.name}: a request of the driver's was refused: {error}")

    def complete(self, queue: Queue, chain: Chain, written: int) -> None:
        """Give back a chain that ``handle`` kept, and tell the driver. In the device's loop."""
        queue.push(chain, written)
        self.publish(queue)

    def publish(self, queue: Queue) -> None:
        """Show the driver what was pushed to *queue*, with an interrupt if it wants one."""
        if queue.publish():
            self._signal.used(queue.index)

    def config_changed(self) -> None:
        """Tell the driver that fields of ``config`` have changed."""
        if not self.held:
            if self.active:
                self._signal.config()
        elif not self._config_due:
            self._config_due = True
            self.soon(self._config_changed_meanwhile)

    def kick(self, queue: int) -> None:
        """Have *queue* run again soon."""
        self._signal.kick(queue)

    def prompt(self, queue: int, on: bool = True) -> bool:
        """Where there is one CPU for all, have the vCPU that kicks *queue* run it itself, or no more.

        Only for a queue that never waits for anything in another thread than the loop's. Under ``busy``.
        Returns whether vCPUs run it now: elsewhere they never do.
        """
        return self._signal.prompt(queue, on)

    def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Have ``callback(events)`` called when *fd* is ready, until ``unwatch`` or a reset."""
        guarded = self._guarded(callback, fd)
        self._watched[fd] = events, guarded
        self.loop.add(fd, events, guarded)

    def rewatch(self, fd: int, events: int) -> None:
        """Wait for other *events* of a watched *fd*."""
        if fd not in self._parked:
            self.loop.modify(fd, events)
        self._watched[fd] = events, self._watched[fd][1]

    def unwatch(self, fd: int) -> None:
        """Forget *fd*; nothing happens when it is not watched."""
        if self._watched.pop(fd, None) is not None:
            self._parked.discard(fd)
            self.loop.remove(fd)

    def later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Have *callback* called once, unless the device is reset before."""

        def fire() -> None:
            self._timers.discard(timer)
            if not timer.cancelled:  # while it waited for the machine to go on
                callback()

        # Guarded, so that it cannot fire before it has its name, by whatever thread it was asked for.
        timer = self.loop.call_later(seconds, self._guarded(fire))
        if len(self._timers) >= _SWEEP:
            self._timers = {timer for timer in self._timers if timer.active}
        self._timers.add(timer)
        return timer

    def soon(self, callback: Callable[[], object]) -> None:
        """Have *callback* called in the loop's next turn, if the device is still running. Any thread."""
        self.loop.call_soon(self._guarded(callback))

    def broken(self, error: PyvmmError) -> None:
        """Stop serving until the driver resets: there is nothing to go on with, by its fault or another's."""
        self.active = self._serving = False
        self._let_go()  # a watched descriptor nobody reads would keep the loop turning
        notice(f"virtio {self.name} broken", f"{self.name} stopped until its driver resets it: {error}")
        self._signal.needs_reset()

    # For a transport

    @property
    def offered_features(self) -> int:
        """Every feature the driver may accept."""
        return self.features | COMMON

    def attach(self, loop: Loop) -> None:
        """Live in *loop* from now on; once, before anything else."""
        self.loop = loop

    def wire(self, kicks: list[int], interrupt: int) -> None:
        """An ``external`` device gets its eventfds: each queue's kick, and the interrupt."""
        raise NotImplementedError(f"{self.name} is external and takes no eventfds")

    def start(self, memory: GuestMemory, features: int, signal: Signal) -> None:
        """The driver is ready: check the queues that it made ready, and begin. Any thread.

        Raises QueueError, or what ``started`` raises; the device is then not running.
        """
        with self.busy:
            self.memory, self.driver_features, self._signal = memory, features, signal
            if not self.external:
                for queue in self.queues:
                    if queue.ready:
                        queue.activate(memory, features)
            self._life += 1
            self.held = False
            self.active = self._begun = self._serving = True
            try:
                self.started()
            except BaseException:
                self.active = self._begun = self._serving = False
                self._let_go()
                raise

    def stop(self) -> None:
        """The driver reset the device, or the machine is over. Waits for what is under way. Any thread."""
        with self.busy:
            begun = self._begun
            self.active = self._begun = self._serving = False
            self._life += 1
            self._let_go()
            try:
                if begun:
                    self.stopped()
            finally:
                self.held = False
                for queue in self.queues:
                    queue.reset()
                self.driver_features = 0

    def run_queue(self, index: int) -> None:
        """The driver kicked queue *index*. In the device's loop; a kick of a stopped device is dropped."""
        with self.busy:
            self._run_queue(index)

    def run_promptly(self, index: int) -> bool:
        """As ``run_queue``, after ``prompt``, in a vCPU's thread; False when it is better left to the loop.

        As it is while the device is at work: that may wait for something, and a vCPU never does.
        """
        if not self.busy.acquire(False):
            return False
        try:
            self._run_queue(index)
        finally:
            self.busy.release()
        return True

    def hold(self) -> None:
        """Stand still, to be saved, until ``release`` or ``stop``. Under ``busy``; the machine is paused."""
        if self.active:
            for queue in self.queues:
                self.publish(queue)  # whoever loads the state takes for told what was given back
        self.held, self._serving = True, False

    def release(self) -> None:
        """The machine goes on: do what waited meanwhile. Any thread, under ``busy``, when ``held``."""
        self.held, self._serving = False, self.active
        deferred, self._deferred = self._deferred, {}
        for callback in deferred.values():
            self.loop.call_soon(callback)

    def save(self) -> dict[str, Any]:
        """The state as plain values, with a ``version``; the device is held."""
        return {
            "version": VERSION,
            "device_id": self.device_id,
            "driver_features": self.driver_features,
            "config": self.config.read(0, len(self.config)).hex(),
            "queues": [queue.save() for queue in self.queues],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what ``save`` gave, before ``start``.

        Raises StateError for what does not fit; the transport makes one of KeyError, TypeError, ValueError.
        """
        check_version(self.name, state, VERSION)
        if state.get("device_id") != self.device_id:
            raise StateError(
                f"{self.name}: the saved state is of virtio device {state.get('device_id')}, and this is "
                f"{self.device_id}; attach the devices in the order they were saved in"
            )
        self.config.restore(bytes.fromhex(state["config"]))
        for queue, saved in zip(self.queues, state["queues"], strict=True):
            queue.load(saved)

    # Inside

    def _run_queue(self, index: int) -> None:
        """Under ``busy``."""
        if not self._serving:
            if self.active:  # past what looks at kicks from outside: it has seen this one
                self._deferred.setdefault(index, partial(VirtioDevice.run_queue, self, index))
            return
        queue = self.queues[index]
        if not queue.ready:
            return
        try:
            self.kicked(queue)
        except GuestError as error:
            self.broken(error)
        except Exception as error:
            self._signal.failed(error)
        if queue.tired:
            queue.tired = False
            self._signal.kick(index)

    def _let_go(self) -> None:
        for fd in list(self._watched):
            self.unwatch(fd)
        for timer in list(self._timers):
            timer.cancel()
        self._timers.clear()
        self._deferred.clear()
        self._config_due = False

    def _guarded(self, callback: Callable[..., object], fd: int = -1) -> Callable[..., None]:
        """*callback*, of events of *fd* if it is given: one at a time with everything else, in this life."""
        life = self._life

        def guarded(*arguments: object) -> None:
            with self.busy:
                if not self._serving or self._life != life:
                    if self.active and self._life == life:
                        self._put_off(guarded, fd)
                    return
                try:
                    callback(*arguments)
                except GuestError as error:
                    self.broken(error)
                except Exception as error:
                    self._signal.failed(error)

        return guarded

    def _config_changed_meanwhile(self) -> None:
        self._config_due = False
        self.config_changed()

    def _put_off(self, guarded: Callable[..., None], fd: int) -> None:
        """Have *guarded* called when the machine goes on; what is ready then tells again by itself."""
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
