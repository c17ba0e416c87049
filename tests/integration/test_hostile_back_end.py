"""A guest whose entropy device another process serves, on a real KVM: one that behaves, one that does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.device_process import served
from tests.support.firmware_guest import Guest, guest, passes

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(180)]

REGISTERS = 0xD000_0000

#: Serves an entropy device as pyvmm does, and does to the eventfds that it shares what it can: full, blocking
#: and not; changes of the configuration are announced without end.
VANDAL = """
import os, sys, threading, time
from pyvmm.loop import Loop
from pyvmm.virtio.rng.device import Rng
from pyvmm.virtio.vhost import user_protocol as p
from pyvmm.virtio.vhost.server.backend import BackEnd

loop = Loop()
back_end = BackEnd(Rng(), loop, sys.argv[1], print)

def spoil(fd):
    os.set_blocking(fd, False)
    try:
        os.eventfd_write(fd, 2**64 - 2)
    except BlockingIOError:
        pass
    os.set_blocking(fd, True)

def vandalise():
    while True:
        time.sleep(0.001)
        session = back_end.session
        if session is None:
            continue
        for ring in session.rings:
            for fd in (ring.kick, ring.call):
                if fd >= 0:
                    spoil(fd)
        try:
            p.send(session._back, p.BACKEND_CONFIG_CHANGE_MSG)
        except (AttributeError, p.ProtocolError):
            pass

threading.Thread(target=vandalise, daemon=True).start()
print("ready", flush=True)
loop.run()
"""


@contextmanager
def vandalised(path: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", VANDAL, path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def with_rng(tmp_path: Path, requests: int) -> Guest:
    return guest(
        tmp_path,
        "virtio_rng.bin",
        REGISTERS,
        requests,
        0,
        timeout=90.0,
        vhost_user=[f"{tmp_path}/s,type=rng"],
    )


def test_device_of_another_process_serves_a_guest(tmp_path: Path) -> None:
    with served("rng", path=tmp_path / "s"):
        passes(with_rng(tmp_path, 300), "ok virtio_rng")


def test_back_end_that_spoils_what_it_shares_neither_ends_nor_holds_the_machine(tmp_path: Path) -> None:
    with vandalised(tmp_path / "s"):
        passes(with_rng(tmp_path, 300), "ok virtio_rng")
