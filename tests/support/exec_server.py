"""The guest's exec server, run on this machine behind a pty that stands for the serial port: fixtures."""

from __future__ import annotations

import os
import shutil
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.exec_link import INIT

#: The server's part of init.
SOURCES = ("channel", "command", "frame", "link", "pack", "run", "server", "text", "unpack", "user")
#: What stands in for init's own start.
MAIN = Path(__file__).parents[1] / "exec" / "server.c"


@pytest.fixture(scope="session")
def server_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the exec server with")
    program = tmp_path_factory.mktemp("server") / "server"
    sources = [INIT / f"{name}.c" for name in SOURCES]
    flags = ["-Os", "-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector", "-fno-pie", "-no-pie"]
    flags += ["-fno-tree-loop-distribute-patterns"]
    subprocess.run(["gcc", *flags, f"-I{INIT}", "-o", program, MAIN, *sources], check=True)
    return program


@pytest.fixture
def channel(server_program: Path) -> Iterator[tuple[int, subprocess.Popen[bytes], str]]:
    """(fd, process, path): the host's end of a running server, the server, its end."""
    master, slave = os.openpty()
    tty.setraw(master)
    path = os.ttyname(slave)
    process = subprocess.Popen([server_program, path], stdin=subprocess.DEVNULL)
    os.set_blocking(master, False)
    yield master, process, path
    process.kill()
    process.wait()
    os.close(slave)
    os.close(master)
