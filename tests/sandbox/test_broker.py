"""A process in the sandbox has its parent connect and rotate files for it, and can ask for nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.command import LIMIT, environment

pytestmark = pytest.mark.timeout(120)

#: The parent offers, forks, and serves until the child has ended; the child tells what came of its requests.
SCRIPT = """
    import json, os, socket, sys
    from pyvmm.backends.net.link import Link
    from pyvmm.host import broker, descriptors
    from pyvmm.host.rotated import RotatedFile
    from pyvmm.host.sandbox import Sandbox
    from pyvmm.loop import READ, Loop
    from pyvmm.sandbox.vm_process import fork
    from pyvmm.virtio.vsock.listener import VsockListener

    def asked(function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            return f"{type(error).__name__} {error.strerror}"

    def child(folder, program):
        Sandbox().enter(descriptors.own())
        Sandbox().seal()
        told = {}
        sock = vsock.new_socket()
        told["none listens"] = asked(vsock.connect, sock, 6)
        told["program"] = asked(vsock.connect, sock, 5)
        sock.sendall(b"hello")
        told["no socket"] = asked(vsock._connect, 5, log._fd)
        told["by hand"] = asked(broker._ask, broker._parent, 1000, 0, -1)
        peer = socket.socket(fileno=link._reach())
        told["link"] = peer.getpeername()
        log.writev([b"a" * 60])
        log.writev([b"b" * 45])
        log._rotate()  # too early: nothing may be thrown away
        told["open"] = asked(os.open, folder, os.O_RDONLY)
        os.write(1, json.dumps(told).encode())

    folder = sys.argv[1]
    broker.begin()
    vsock = VsockListener(f"{folder}/vsock")
    log = RotatedFile(f"{folder}/log", limit=100)
    other = Link(f"{folder}/link")
    other.open()
    link = Link(f"{folder}/link")
    program = socket.socket(socket.AF_UNIX)
    program.bind(f"{folder}/vsock_5")
    program.listen()
    process, parent = fork(True)
    if parent is not None:
        try:
            child(folder, program)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else sys.excepthook(*sys.exc_info()) or 1)
    with Loop() as loop:
        process.serve(loop, lambda message, fd: None)
        loop.add(process.fd, READ, lambda events: loop.stop())
        loop.run()
    assert process.wait() == 0
    connection, _ = program.accept()
    print(connection.recv(5).decode())
    log.writev([b"c" * 10])
"""


def test_parent_does_by_name_what_was_agreed_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        env=environment(),
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )

    assert done.returncode == 0, done
    told = json.loads(done.stdout.partition(b"}")[0] + b"}")
    assert told == {
        "none listens": "FileNotFoundError No such file or directory",
        "program": None,
        "no socket": "OSError Socket operation on non-socket",
        "by hand": "OSError Invalid argument",
        "link": str(tmp_path / "link"),
        "open": "PermissionError Permission denied",
    }
    assert done.stdout.endswith(b"hello\n")
    assert (tmp_path / "log.1").read_bytes() == b"a" * 60
    assert (tmp_path / "log").read_bytes() == b"b" * 45 + b"c" * 10
