"""What stands behind a network device on the host: the interface of network backends."""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial

from pyvmm.backends.host_objects import HostObject
from pyvmm.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.loop import Loop

#: Bytes before each frame: struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6).
HEADER = 12
#: Bytes of the longest frame: an IP packet of 64 KiB less one, and its Ethernet header (5.1.6.3.1).
MAX_FRAME = 65535 + 14 + 1
#: Bytes of an Ethernet header: no frame is shorter.
MIN_FRAME = 14

# What one side may leave to the other, by the numbers of <linux/if_tun.h> (TUN_F_CSUM and so on).
CSUM = 1
TSO4 = 2
TSO6 = 4
ECN = 8
ALL_OFFLOADS = CSUM | TSO4 | TSO6 | ECN


class NetBackendError(StartError):
    """A network backend cannot be opened on this host."""


class NetBackend(HostObject):
    """Frames to and from the host, behind one network device. This one has no other end.

    A frame comes and goes as a list of views: ``HEADER`` bytes of virtio_net_hdr_v1, then the frame.
    ``started`` and ``stopped`` are called by any thread, what moves frames only between the two and by the
    device's loop (where ``sends_in_any_thread`` is true: sending by other threads, too), all with ``lock``
    held. None of these waits for the other end.
    """

    #: CSUM, TSO4, TSO6, ECN: the offloads it accepts from the guest, and can leave to it.
    offloads = 0
    #: Queue pairs it can have.
    pairs = 1
    #: True: frames carry headers another guest wrote, and offloads this one may not have accepted.
    foreign = False
    #: True: ``send``, the functions of ``writer``, ``blocked`` and ``flush`` may be called by any thread that
    #: holds the device's lock. They use nothing of the loop, and nothing that is used without this lock.
    sends_in_any_thread = False
    #: Directories in which it opens and connects by name after ``open``.
    paths: Sequence[str] = ()
    #: Bytes of the largest IP packet it carries; None: what the user asks for, or 1500.
    mtu: int | None = None
    #: Whether ``speed`` may come to be known.
    has_speed = False

    def __init__(self) -> None:
        #: False while there is no other end: the guest's link is down.
        self.carrier = True
        #: False: the user has taken the guest's link down, in whatever machine.
        self.plugged = True
        #: The device's lock. What the backend does in the loop by itself, it does with this held.
        self.lock = allocate_lock()
        #: Called in the loop, with ``lock`` held, when ``carrier`` or a descriptor changes. A descriptor is
        #: closed after it.
        self.on_change: Callable[[], object] | None = None
        #: Receives the frames that another guest sends, while the device runs.
        self.sink: FrameSink | None = None

    def attach(self, loop: Loop) -> None:
        """Begin, for the next machine's device; opens first what was not opened. Raises NetBackendError."""
        self.open()

    def speed(self) -> tuple[int, int] | None:
        """(Mb/s, duplex: 0 half, 1 full) of the link, where they are known."""
        return None

    @property
    def identity(self) -> str:
        """What distinguishes it from others of its kind: part of the seed of a MAC address."""
        return ""

    def started(self, offloads: int) -> None:
        """The driver runs, and accepts frames with *offloads* left to it. Raises OSError."""

    def stopped(self) -> None:
        """The driver has reset the device."""

    def enable(self, pairs: int) -> None:
        """Use the first *pairs* queue pairs."""

    def set_carrier(self, up: bool) -> None:
        """The guest has set its link up or down: show that to the other end, where that is possible."""

    def fd(self, pair: int) -> int:
        """What becomes readable when there are frames for queue *pair*; -1 when frames are pushed."""
        return -1

    def receive(self, pair: int, views: list[memoryview]) -> int:
        """Read one frame, header and all, into *views*; returns its bytes.

        One that is longer is cut. Raises BlockingIOError when there is none.
        """
        raise BlockingIOError

    def reader(self, pair: int) -> Callable[[list[memoryview]], int]:
        """``receive`` for one queue, as directly as possible."""
        return partial(self.receive, pair)

    @property
    def pending(self) -> bool:
        """True when there are frames for which ``fd`` is not readable."""
        return False

    def writer(self, pair: int) -> Callable[[list[memoryview]], object]:
        """``send`` for one queue, as directly as possible."""
        return partial(self.send, pair)

    def send(self, pair: int, views: list[memoryview]) -> None:
        """Send a frame with its header, *views*; they are not used afterwards.

        Raises BlockingIOError when there is no room until ``fd(pair)`` is writable, OSError when it is lost.
        """

    @property
    def blocked(self) -> bool:
        """True when something that was sent waits for ``fd`` to be writable, and for ``flush`` then."""
        return False

    def flush(self) -> None:
        """Send what is buffered: the device has no more frames for now."""

    def describe(self) -> str:
        """What this is, for messages."""
        return "none"


class FrameSink:
    """Where a running device receives the frames of other guests. Any thread."""

    def deliver(self, pair: int, header: bytes, views: Sequence[memoryview], size: int) -> None:
        """Copy a frame of *size* bytes; the device checks *header*. Does not wait."""

    def flush(self) -> None:
        """Notify the driver of what was delivered."""
