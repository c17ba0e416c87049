"""A lab's channel and a machine below that breaks the exec protocol's rules."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.exec import frames
from pyvmm.exec.channel import UNSENT_MAX
from pyvmm.exec.client import WINDOW_MAX
from pyvmm.exec.request import Request
from pyvmm.lab.channel import LabChannel
from pyvmm.lab.errors import LabLostError


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[LabChannel, socket.socket]]:
    """A channel that was greeted, and the other end of its socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "channel"))
        listener.listen()
        with LabChannel(tmp_path / "channel") as channel:
            theirs, _ = listener.accept()
            with theirs:
                channel.flush()
                _, _, nonce = struct.unpack_from("<HHI", theirs.recv(4096), 8)
                welcome = struct.pack("<HHIII", frames.VERSION, 0, nonce, WINDOW_MAX, WINDOW_MAX)
                theirs.sendall(frames.encode(frames.GUEST_HELLO, 0, welcome))
                channel.receive()
                assert channel.client.ready
                yield channel, theirs


def test_host_that_grants_credit_for_ever_and_reads_nothing_is_given_up(
    pair: tuple[LabChannel, socket.socket],
) -> None:
    channel, theirs = pair
    run = channel.client.start(Request(["cat"]))
    written = 0

    def feed() -> None:
        nonlocal written
        grant = struct.pack("<I", WINDOW_MAX)
        while written < 100 * UNSENT_MAX:
            written += run.write(bytes(WINDOW_MAX))
            channel.flush()
            theirs.sendall(frames.encode(frames.GUEST_CREDIT, 0, grant))
            theirs.sendall(frames.encode(frames.GUEST_CREDIT, run.number, grant))
            channel.receive()

    with pytest.raises(LabLostError, match="4 MiB unread"):
        feed()
    assert written <= 2 * UNSENT_MAX
