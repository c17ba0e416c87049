"""Networking without privileges, through ``passt``: DHCP, DNS, TCP and UDP out, ports forwarded in.

passt opens sockets of its own for the guest's connections. Frames go over a UNIX stream socket, each
preceded by its length as 32 bits, big-endian (passt(1)); there is no room for offloads, so none are
offered, and frames are as long as IP allows instead.

Whatever passt connects to is connected to by this host. By itself it takes the gateway's address for
127.0.0.1, and Debian 12's takes a packet *to* 127.0.0.1 for what it says; both lead to servers that are meant
for this host's programs alone. So the first is turned off, and such packets are dropped here.
"""

from __future__ import annotations

import os
import socket

from pyvmm.backends.net.base import HEADER, MAX_FRAME, NetBackend, NetBackendError
from pyvmm.errors import ConfigError
from pyvmm.host.child import FIRST_FD, spawn
from pyvmm.host.notice import notice
from pyvmm.host.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "passt"
#: The largest MTU passt has: 65535 less an Ethernet header, in whole words.
MTU = 65520
#: Seconds passt gets to open its ports.
START = 30.0
_LENGTH = 4
#: Bytes of a frame that are copied before they are looked at: the headers of Ethernet and of IPv6.
_HEADERS = 14 + 40
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
#: Where this host's name servers are, and where systemd-resolved, which is one on 127.0.0.53, has its own.
_RESOLV_CONF = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
_MAX_RESOLV_CONF = 64 << 10
#: Name servers that passt takes; resolv.conf(5) has no more.
_MAX_NAME_SERVERS = 3
#: Bytes of its error output that are read.
_ERRORS = 4096
#: Bytes read from the socket at once.
_STAGE = 256 << 10
_PORT_MAX = 65535


class Forward:
    """A port *outside* of the host's *address* that leads to the guest's port *inside*; each 1 to 65535.

    *protocol*: ``tcp`` or ``udp``.
    """

    __slots__ = ("address", "inside", "outside", "protocol")

    def __init__(self, protocol: str, address: str, outside: int, inside: int) -> None:
        self.protocol = protocol
        self.address = address
        self.outside = outside
        self.inside = inside


def parse_forwards(text: str) -> tuple[Forward, ...]:
    """``tcp:8080:80+udp:127.0.0.1:5353:53``: protocol, the host's address and port, the guest's port.

    Without an address it is 127.0.0.1; ``0.0.0.0`` is all. Raises ConfigError.
    """
    found = []
    for item in text.split("+"):
        protocol, *rest = item.split(":")
        ports = rest[-2:]
        if (
            protocol not in ("tcp", "udp")
            or not 2 <= len(rest) <= 3
            or not all(port.isascii() and port.isdigit() and 0 < int(port) <= _PORT_MAX for port in ports)
        ):
            raise ConfigError(
                f"net: hostfwd={item} is no forward; write tcp:8080:80, or udp:ADDRESS:5353:53, and + "
                "between two"
            )
        found.append(
            Forward(protocol, rest[0] if len(rest) == 3 else "127.0.0.1", int(ports[0]), int(ports[1]))
        )
    return tuple(found)


class Passt(NetBackend):
    """A guest's network through a passt of its own, which ends with the socket.

    :param forwards: ports that lead in
    :param host_loopback: the gateway's address is this host's 127.0.0.1 and ::1
    :param mtu: bytes of the largest IP packet; by default 65520
    """

    sends_in_any_thread = True

    def __init__(
        self, forwards: Sequence[Forward] = (), *, host_loopback: bool = False, mtu: int | None = None
    ) -> None:
        super().__init__()
        self.mtu = mtu or MTU
        self._forwards = forwards
        self._host_loopback = host_loopback
        self._started = False
        self._socket: socket.socket | None = None
        self._stage = bytearray(_STAGE)
        self._view = memoryview(self._stage)
        self._start = self._end = 0  # what was read and not parsed
        self._unsent = b""

    def open(self) -> None:
        """Start passt. Raises NetBackendError with its error output."""
        if self._started:
            return
        self._started = True
        ours, theirs = socket.socketpair()
        with theirs:
            self._socket = ours
            ours.setblocking(False)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._run(theirs.fileno())

    def _run(self, fd: int) -> None:
        command = [PROGRAM, "--quiet", "--stderr", "--one-off", "--mtu", str(self.mtu), "--fd", str(FIRST_FD)]
        for protocol, option in (("tcp", "--tcp-ports"), ("udp", "--udp-ports")):
            mine = [forward for forward in self._forwards if forward.protocol == protocol]
            command += [option, "none"] if not mine else []
            for forward in mine:
                command += [option, f"{forward.address}/{forward.outside}:{forward.inside}"]
        if not self._host_loopback:
            command += ["--no-map-gw", *_name_server_options()]
        errors = os.memfd_create(PROGRAM, os.MFD_CLOEXEC)
        try:
            # It goes into the background when its ports are open: its exit status says whether they are.
            child = spawn(command, fds=[fd], errors=errors)
            late = child.wait(START) is None
            child.end(0)
            said = os.pread(errors, _ERRORS, 0)
        except FileNotFoundError:
            raise NetBackendError(
                f"--net user needs the program {PROGRAM}; install it (Debian: apt-get install passt)"
            ) from None
        except OSError as error:
            raise NetBackendError(
                f"{PROGRAM} cannot be run: {error.strerror}; see the limit of processes (ulimit -u)"
            ) from None
        finally:
            os.close(errors)
        if late:
            raise NetBackendError(f"{PROGRAM} did not start within {START:g} seconds; try it by hand")
        if child.status:
            lines = [line for line in said.decode(errors="replace").split("\n") if line.strip()]
            why = "; ".join(line for line in lines if "syslog" not in line) or f"exit code {child.status}"
            raise NetBackendError(f"{PROGRAM} does not start: {printable(why)}")

    def left(self) -> tuple[bytes, int]:
        """The bytes of the frames that are under way in both directions."""
        unsent = len(self._unsent).to_bytes(_LENGTH, "big") + self._unsent
        return unsent + self._view[self._start : self._end], -1

    def give(self, left: bytes, fd: int) -> None:
        """The bytes that the process before had."""
        begin = _LENGTH + int.from_bytes(left[:_LENGTH], "big")
        self._unsent = left[_LENGTH:begin]
        received = left[begin:][:_STAGE]
        self._stage[: len(received)] = received
        self._start, self._end = 0, len(received)

    def fd(self, pair: int) -> int:
        """The socket; -1 when passt is gone."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether a whole frame was read and not taken yet."""
        return self._frame_end() > 0

    def receive(self, pair: int, views: list[memoryview]) -> int:
        """One frame, behind a header of zeroes.

        Raises BlockingIOError when none is whole, and when passt has ended.
        """
        end = self._frame_end()
        while not end:
            self._read()
            end = self._frame_end()
        start, self._start = self._start + _LENGTH, end
        size = HEADER + end - start
        if size > HEADER + MAX_FRAME:
            return 0
        # The view of the header, and the rest of what it lies in.
        at, left = 0, size
        for view in views:
            part = view[: min(left, view.nbytes)]
            head = min(max(HEADER - at, 0), part.nbytes)
            part[:head] = bytes(head)
            begin = start + at + head - HEADER
            part[head:] = self._view[begin : begin + part.nbytes - head]
            at += part.nbytes
            left -= part.nbytes
            if not left:
                break
        return size

    def send(self, pair: int, views: list[memoryview]) -> None:
        """Send one frame without its header. What the socket does not accept of it is sent before the next.

        Raises BlockingIOError while the end of the one before waits.
        """
        if self._socket is None:
            return
        fd = self._socket.fileno()
        try:
            if self._unsent:
                self._unsent = self._unsent[os.write(fd, self._unsent) :]
                if self._unsent:
                    raise BlockingIOError
            size = sum(map(len, views)) - HEADER
            length = size.to_bytes(_LENGTH, "big")
            first = views[0]
            if first.nbytes >= HEADER + _HEADERS:
                # What was looked at is sent: the guest may write to its buffer meanwhile.
                head = bytes(first[HEADER : HEADER + _HEADERS])
                parts: list[memoryview | bytes] = [length, head, first[HEADER + _HEADERS :], *views[1:]]
            else:
                head = b"".join(views)[HEADER:]
                parts = [length, head]
            if not self._host_loopback and is_to_loopback(head):
                notice(
                    "passt loopback",
                    "a packet of the guest's to this host's loopback was dropped; to allow that, give --net "
                    "user,host-loopback: the gateway's address is this host's then",
                )
                return
            done = os.writev(fd, parts)
            if done < _LENGTH + size:
                self._unsent = b"".join(parts)[done:]
        except ConnectionError:
            pass  # reading reports that, too

    @property
    def blocked(self) -> bool:
        """Whether the end of a frame is not sent yet."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what is left, if the socket accepts it."""
        if self._unsent and self._socket is not None:
            try:
                self._unsent = self._unsent[os.write(self._socket.fileno(), self._unsent) :]
            except (BlockingIOError, ConnectionError):
                pass

    def describe(self) -> str:
        """The program."""
        return PROGRAM

    def close(self) -> None:
        """Disconnect: passt ends then."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _frame_end(self) -> int:
        """Where the first frame read ends, in the stage; 0 when it is not whole."""
        have = self._end - self._start
        if have < _LENGTH:
            return 0
        size = int.from_bytes(self._view[self._start : self._start + _LENGTH], "big")
        return self._start + _LENGTH + size if have >= _LENGTH + size else 0

    def _read(self) -> None:
        """Read more behind what is there. Raises BlockingIOError."""
        if self._socket is None:
            raise BlockingIOError
        left = self._end - self._start
        if self._start:
            self._stage[:left] = self._stage[self._start : self._end]
            self._start, self._end = 0, left
        try:
            size = self._socket.recv_into(self._view[left:]) if left < _STAGE else 0
        except ConnectionError:
            size = 0
        if not size:
            notice("passt", f"{PROGRAM} has ended: the guest's network is gone")
            gone, self._socket = self._socket, None
            self.carrier = False
            if self.on_change is not None:
                self.on_change()
            gone.close()
            raise BlockingIOError
        self._end += size


def is_to_loopback(frame: bytes) -> bool:
    """Whether *frame* begins as an IP packet to an address that a socket connects to its own host for.

    These are 127.0.0.0/8 and ::1, what is unspecified (0.0.0.0/8, ::), and IPv4 addresses in IPv6's form.
    """
    kind = frame[12:14]
    return _is_here(frame[30:34]) if kind == _IPV4 else kind == _IPV6 and _is_here(frame[38:54])


def _is_here(address: bytes) -> bool:
    """Whether *address*, of 4 or 16 bytes, is this host whichever one it is."""
    if len(address) <= 4:
        return address[:1] in (b"\0", b"\x7f")
    return address[:10] == bytes(10) and address[10:12] in (b"\0\0", b"\xff\xff")


def _name_server_options() -> list[str]:
    """passt's options for name servers; none where it finds them itself.

    It offers the guest none that is on this host's loopback, where systemd-resolved's is: then those are
    offered that this one asks.
    """
    own, *others = (_name_servers(path) for path in _RESOLV_CONF)
    if not own or any(map(_is_elsewhere, own)):
        return []
    found = [server for servers in others for server in servers if _is_elsewhere(server)]
    if not found:
        notice(
            "passt names",
            "this host's name server is on its loopback, which the guest does not reach: names need a "
            "nameserver in the guest's /etc/resolv.conf, or --net user,host-loopback",
        )
    return [word for server in found[:_MAX_NAME_SERVERS] for word in ("--dns", server)]


def _name_servers(path: str) -> list[str]:
    """The addresses in a file of resolv.conf(5)'s format."""
    try:
        with open(path, "rb") as file:
            lines = file.read(_MAX_RESOLV_CONF).decode(errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for words in map(str.split, lines) if words[:1] == ["nameserver"] and len(words) > 1]


def _is_elsewhere(address: str) -> bool:
    """Whether *address* is one, without a scope, and not of a loopback."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return not _is_here(socket.inet_pton(family, address))
        except OSError:
            pass
    return False
