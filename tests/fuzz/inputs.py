"""Other inputs from outside: image headers, overlays, frames, board files, options, vhost-user's messages.

Each function does with an input what pyvmm would. It raises what is a defect, or the refusal that is allowed.
"""

from __future__ import annotations

import gc
import os
import socket
import struct
from contextlib import contextmanager
from itertools import islice
from zlib import crc32

from pyvmm.backends.disk.format import detect
from pyvmm.backends.disk.header import backing_of
from pyvmm.boot.devicetree import Tree, apply_overlay, pack, unpack
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.config.keys import KEYS
from pyvmm.errors import ConfigError
from pyvmm.exec import frames
from pyvmm.exec.client import ExecClient
from pyvmm.exec.request import Request
from pyvmm.host.eventfd import EventSignaller
from pyvmm.loop import Loop
from pyvmm.testing import FakeDriver
from pyvmm.virtio import features as f
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.frontend import VhostUser
from pyvmm.virtio.vhost.server.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of a name in a sentence.
NAME = 2000
#: Turns of a loop in which what an input started comes to rest.
TURNS = 2000
MEMORY, GPA, USER = 1 << 16, 0x10000, 0x7F00_0000_0000


@contextmanager
def _file(data: bytes) -> Iterator[int]:
    """A file with *data*."""
    fd = os.memfd_create("input")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def _open() -> int:
    return len(os.listdir("/proc/self/fd"))


def _nothing_left(before: int) -> None:
    """No more descriptors are open than *before*; fewer may be, of what ran before this input."""
    if _open() > before:
        gc.collect()  # views of memory hold its file
    assert _open() <= before, "a descriptor was left open"


# Images of disks


def disk_header(data: bytes) -> None:
    """What an image is based on is a name that can be printed."""
    kind = detect(data[:512])
    with _file(data) as fd:
        backing = backing_of(fd, "image", kind)
    if backing is not None:
        assert backing.name.isprintable() and len(backing.name) < NAME
        assert backing.format is None or backing.format.isprintable()


def _qcow2(version: int, features: int = 0, extensions: bytes = b"", backing: bytes = b"") -> bytes:
    head = b"QFI\xfb" + struct.pack(">IQIIQ", version, 400 if backing else 0, len(backing), 16, 1 << 20)
    head = head.ljust(72, b"\0") + struct.pack(">QQQII", features, 0, 0, 4, 104)
    return (head[: 104 if version == 3 else 72] + extensions).ljust(400, b"\0") + backing + bytes(600)


def _vmdk(text: bytes) -> bytes:
    return (b"KDMV" + struct.pack("<IIQQ", 1, 3, 2048, 128)).ljust(512, b"\0") + text.ljust(1024, b"\0")


HEADERS = [
    _qcow2(2, backing=b"base.img"),
    _qcow2(3, 1, struct.pack(">II", 0xE2792ACA, 3) + b"raw\0\0\0\0\0" + bytes(8), b"base.img"),
    _qcow2(3, 4, struct.pack(">II", 0x44415441, 4) + b"dataxxxx" + bytes(8)),
    b"QFI\xfb" + struct.pack(">IQI", 1, 48, 4).ljust(44, b"\0") + b"base",
    b"QED\0".ljust(16, b"\0") + struct.pack("<Q", 5).ljust(40, b"\0") + struct.pack("<II", 64, 4) + b"base",
    _vmdk(b'version=1\nparentCID=ffffffff\nRW 2048 SPARSE "a.vmdk"\n'),
    _vmdk(b'version=1\nparentCID=12345678\nparentFileNameHint="base.vmdk"\n'),
    (bytes(0x40) + b"\x7f\x10\xda\xbe\1\0\1\0").ljust(76, b"\0") + struct.pack("<I", 1),
    b"conectix".ljust(60, b"\0") + struct.pack(">I", 3),
]


# Overlays


def overlay(data: bytes) -> None:
    """A tree with an overlay applied is a tree that can be written and read."""
    tree = unpack(BASE)
    apply_overlay(tree, unpack(data))
    assert pack(unpack(pack(tree))) == pack(tree)


def _base() -> bytes:
    tree = Tree()
    for name, label in (("intc", "gic"), ("bus@0", "bus")):
        tree.root.add(name, label).set("reg", 0, 1)
    tree.write_symbols()
    return pack(tree)


def _overlay() -> bytes:
    tree = Tree()
    first, second = tree.root.add("fragment@0"), tree.root.add("fragment@1")
    first.set("target", 0xFFFFFFFF)
    first.add("__overlay__").add("child", "new").set("irq", 0xFFFFFFFF, 1)
    second.set("target-path", "/bus@0")
    second.add("__overlay__").set("other", 1)
    tree.root.children["fragment@0"].children["__overlay__"].children["child"].set("phandle", 1)
    fixups = tree.root.add("__fixups__")
    fixups.set("gic", "/fragment@0/__overlay__/child:irq:0")
    fixups.set("bus", "/fragment@0:target:0")
    tree.root.add("__local_fixups__").add("fragment@1").add("__overlay__").set("other", 0)
    tree.root.add("__symbols__").set("new", "/fragment@0/__overlay__/child")
    return pack(tree)


BASE = _base()
OVERLAYS = [_overlay()]


# Frames of the exec protocol


def exec_frames(data: bytes) -> None:
    """Frames do not depend on how their bytes come; a guest that sends them ends its link at most."""
    whole, pieces = frames.Decoder(), frames.Decoder()
    found = whole.feed(data)
    again = [frame for at in range(0, len(data), 7) for frame in pieces.feed(data[at : at + 7])]
    assert [repr(frame) for frame in found] == [repr(frame) for frame in again]
    assert whole.noise == pieces.noise <= len(data)
    for frame in found:
        assert frames.encode(frame.type, frame.run, frame.payload) in data
    sent = bytearray()
    client = ExecClient(sent.extend)
    client.connect()
    client.receive(_welcome(frames.Decoder().feed(sent)[0].payload))
    run = client.start(Request(["true"]))
    client.receive(data)
    assert run.status is None or 0 <= run.status <= 255
    assert len(sent) < (1 << 16) + 64 * len(data)


def _welcome(hello: bytes) -> bytes:
    _, _, nonce = struct.unpack("<HHI", hello[:8])
    return frames.encode(frames.GUEST_HELLO, 0, struct.pack("<HHIII", frames.VERSION, 0, nonce, 4096, 4096))


FRAMES = [
    b"text "
    + frames.encode(frames.GUEST_STDOUT, 1, b"output")
    + frames.encode(frames.GUEST_CREDIT, 1, struct.pack("<I", 64))
    + frames.encode(frames.GUEST_STDERR, 1, b"error")
    + frames.encode(frames.GUEST_EXIT, 1, struct.pack("<II", 3, 0)),
    _welcome(bytes(8)) + frames.encode(frames.GUEST_PONG, 0, struct.pack("<I", 1)),
]


def valid_frames(data: bytearray) -> None:
    """Make the checksums of frames in *data* what they must be: without them nothing else is read."""
    at = data.find(struct.pack("<H", frames.MAGIC))
    while 0 <= at <= len(data) - 12:
        length = min(int.from_bytes(data[at + 4 : at + 6], "little"), len(data) - at - 12)
        data[at + 4 : at + 6] = length.to_bytes(2, "little")
        data[at + 6 : at + 8] = (crc32(data[at : at + 6]) & 0xFFFF).to_bytes(2, "little")
        end = at + 8 + length
        data[end : end + 4] = crc32(data[at + 8 : end]).to_bytes(4, "little")
        at = data.find(struct.pack("<H", frames.MAGIC), end + 4)


# Board files and options


def board(data: bytes) -> None:
    """A board file is a machine's configuration; one of somebody else's names no file but its folder's."""
    with _file(data) as fd:
        Config.from_toml(f"/proc/self/fd/{fd}")
        try:
            config = Config.from_toml(f"/proc/self/fd/{fd}", untrusted=True)
        except ConfigError:
            return
    assert not (config.devices or config.record or config.trace_device or config.inject)
    assert config.console == Config().console


def options(data: bytes) -> None:
    """Each line is an option: KIND TEXT of a device, which means the same when it is written anew."""
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        name, _, text = line.partition(" ")
        if name in DEVICE_KINDS:
            kind = DEVICE_KINDS[name]
            [parsed] = kind.read(text)
            items = []
            for key, value in parsed.values.items():
                many = value if isinstance(value, tuple) else (value,)
                items += [(key if one is True else f"{key}={one}").replace(",", ",,") for one in many]
            if kind.first in parsed.values:
                items.sort(key=lambda item, first=kind.first: not item.startswith(f"{first}="))
            if not any("=:" in item for item in items):
                assert kind.parse(",".join(items)) == parsed
        elif name in KEYS and KEYS[name].parse is not None:
            KEYS[name].parse(name, text)


BOARDS = [
    b'cmdline = "quiet"\nmemory = "64M"\ncpus = 2\n',
    b'kernel = "k"\ncmdline = "quiet"\nmemory = "64M"\ncpus = 2\nconsole = "file:log"\nrng = true\n',
    b'firmware = "f"\ndisk = ["a,ro", {path = "b", backing = ["c"]}]\nnet = "user,mtu=1500"\n',
    b'kernel = "k"\n[[memory]]\nsize = "1M"\nbacking = "memfd"\n[[memory]]\nsize = "2M"\n',
]
OPTIONS = [
    b"disk a,,b,ro,serial=x\ndisk ro,path=:a,b\nnet tap,fd=3,queues=2\nvsock 3,path=s\n",
    b"memory 64M\ncpus 2\ntimeout 5s\nvhost_user s,type=rng\nballoon target=1M,stats=5s\n",
]


# vhost-user: each message is a request, flags, what descriptors come with it, the length of its payload

_MESSAGE = struct.Struct("<BBBB")
_NO_FILE, _EVENTFD, _MEMORY, _SOCKET = range(4)


def _message(request: int, payload: bytes = b"", kind: int = _NO_FILE, flags: int = 0) -> bytes:
    return _MESSAGE.pack(request, flags, kind, len(payload)) + payload


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        request, flags, kind, size = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        yield request, flags, kind % 4, data[at : at + size]
        at += size


def vhost_front(data: bytes) -> None:
    """Messages of a front end to a device of ours: its loop comes to rest, and nothing is left open."""
    before = _open()
    loop, device, over, defects = Loop(), Rng(), list[str](), list[Exception]()
    device.runtime.attach(loop)
    ours, theirs = socket.socketpair()
    signaller = EventSignaller()
    session = Session(device, theirs, loop, over.append, defects.append, signaller)
    try:
        for request, flags, kind, payload in islice(_messages(data), 64):
            fds = _descriptors(kind)
            try:
                p.send(ours, request, payload, fds, (flags & 1) * p.NEED_REPLY)
                if kind == _EVENTFD:
                    os.eventfd_write(fds[0], 1)
            except p.ProtocolError:
                pass  # it has ended
            finally:
                for fd in fds:
                    os.close(fd)
            turns = 0
            while loop.run_once(0):
                turns += 1
                assert turns < TURNS, "the loop does not come to rest"
        assert not defects, defects
        assert all(sentence.isprintable() for sentence in over), over
    finally:
        session.close()
        signaller.close()
        device.runtime.close()
        ours.close()
        loop.close()
    _nothing_left(before)


def _descriptors(kind: int) -> list[int]:
    if kind == _NO_FILE:
        return []
    if kind == _EVENTFD:
        return [os.eventfd(0, os.EFD_NONBLOCK)]
    if kind == _SOCKET:
        one, other = socket.socketpair()
        other.close()
        return [one.detach()]
    fd = os.memfd_create("memory")
    os.ftruncate(fd, MEMORY)
    return [fd]


def _front() -> bytes:
    ring = p.VRING_STATE.pack
    region = p.MEM_TABLE.pack(1, 0) + p.MEM_REGION.pack(GPA, MEMORY, USER, 0)
    return b"".join(
        (
            _message(p.SET_OWNER),
            _message(p.GET_FEATURES),
            _message(p.SET_PROTOCOL_FEATURES, p.U64.pack(p.PROTOCOL_F_MQ | p.PROTOCOL_F_REPLY_ACK)),
            _message(p.SET_FEATURES, p.U64.pack(f.F_VERSION_1 | p.F_PROTOCOL_FEATURES)),
            _message(p.SET_MEM_TABLE, region, _MEMORY, 1),
            _message(p.SET_VRING_NUM, ring(0, 8)),
            _message(p.SET_VRING_BASE, ring(0, 0)),
            _message(p.SET_VRING_ADDR, p.VRING_ADDR.pack(0, 0, USER, USER + 0x2000, USER + 0x1000, 0)),
            _message(p.SET_VRING_CALL, p.U64.pack(0), _EVENTFD),
            _message(p.SET_VRING_ERR, p.U64.pack(0), _EVENTFD),
            _message(p.SET_VRING_KICK, p.U64.pack(0), _EVENTFD),
            _message(p.SET_VRING_ENABLE, ring(0, 1), flags=1),
            _message(p.SET_BACKEND_REQ_FD, b"", _SOCKET),
            _message(p.SET_STATUS, p.U64.pack(15)),
            _message(p.GET_VRING_BASE, ring(0, 0)),
            _message(p.RESET_DEVICE),
        )
    )


def vhost_back(data: bytes) -> None:
    """Answers of a back end to our front end: the device runs, needs a reset or is refused."""
    before = _open()
    ours, theirs = socket.socketpair()
    try:
        theirs.send(data)
        theirs.shutdown(socket.SHUT_WR)  # nothing is waited for
        connection = BackEndConnection(lambda: ours, "the back end")
        device = VhostUser(connection, 42, "test", queues=1, config_size=8)
        with FakeDriver(device, start=False) as driver:
            try:
                driver.probe()
            except AssertionError:
                assert driver.status & f.DEVICE_NEEDS_RESET or not driver.status & f.DRIVER_OK
            driver.run()
    finally:
        ours.close()
        theirs.close()
    _nothing_left(before)


def _reply(request: int, payload: bytes) -> bytes:
    return p.HEADER.pack(request, p.VERSION | p.REPLY, len(payload)) + payload


def _answers(protocol: int) -> bytes:
    """What a back end answers, from the first message on, until its ring is stopped."""
    done = p.U64.pack(0)
    said = [_reply(p.GET_FEATURES, p.U64.pack(f.COMMON | p.F_PROTOCOL_FEATURES))]
    said += [_reply(p.GET_PROTOCOL_FEATURES, p.U64.pack(protocol)), _reply(p.GET_QUEUE_NUM, p.U64.pack(2))]
    said += [_reply(p.GET_CONFIG, p.CONFIG.pack(0, 8, 0) + bytes(8))]
    start = (p.SET_FEATURES, p.SET_MEM_TABLE, p.SET_VRING_NUM, p.SET_VRING_BASE, p.SET_VRING_ADDR)
    start += (p.SET_VRING_CALL, p.SET_VRING_ERR, p.SET_VRING_KICK, p.SET_VRING_ENABLE)
    if protocol & p.PROTOCOL_F_REPLY_ACK:
        said += [_reply(request, done) for request in start]
        said += [_reply(p.SET_VRING_ENABLE, done)]
    else:
        said += [_reply(p.GET_FEATURES, p.U64.pack(f.COMMON | p.F_PROTOCOL_FEATURES))]
    return b"".join([*said, _reply(p.GET_VRING_BASE, p.VRING_STATE.pack(0, 0))])


FRONTS = [_front()]
BACKS = [
    _answers(p.PROTOCOL_F_MQ | p.PROTOCOL_F_CONFIG | p.PROTOCOL_F_REPLY_ACK),
    _answers(p.PROTOCOL_F_MQ | p.PROTOCOL_F_CONFIG),
]
