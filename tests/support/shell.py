"""Commands in a real Linux guest of this process, so that a test has the devices in its hands."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyvmm
from pyvmm.images import cpio
from pyvmm.machine.machine import Machine
from pyvmm.virtio.device import VirtioDevice
from tests.support.native import CONSOLE

#: Seconds a boot gets; the emulated host takes 10 to 30, twice that when it is shared.
BOOT = 120
#: Seconds a command gets.
LIMIT = 60


class Shell:
    """The default guest with *devices*, booted.

    :param programs: name to path, of programs to put into the guest's /bin
    :param folder: where to keep the archive they travel in
    """

    #: The guest's directory in which commands run.
    directory = "/root"

    def __init__(
        self,
        devices: Sequence[VirtioDevice],
        *,
        memory: str = "256M",
        cpus: int = 1,
        programs: dict[str, Path] | None = None,
        folder: Path | None = None,
        cmdline: str = "",
        watchdog: float = 600,  # a class of tests shares a guest, and the host may be busy
    ) -> None:
        initrd = []
        if programs:
            assert folder is not None, "programs need a folder"
            archive = folder / "programs.cpio"
            files = [cpio.file(f"bin/{name}", path.read_bytes(), 0o755) for name, path in programs.items()]
            archive.write_bytes(cpio.archive(files))
            initrd.append(str(archive))
        self.guest = pyvmm.Guest(
            devices=devices,
            initrd=initrd,
            cmdline=f"console={CONSOLE} quiet panic=-1 {cmdline}",
            memory=memory,
            cpus=cpus,
            timeout=watchdog,
        )
        self.guest.start()
        try:
            self.guest.wait_ready(BOOT)
        except BaseException:
            self.guest.close()
            raise

    @property
    def machine(self) -> Machine:
        return self.guest.machine

    def run(self, command: str, limit: float = LIMIT) -> str:
        """What *command* says; its status must be 0."""
        status, text = self.status(command, limit)
        assert status == 0, f"{command}: status {status}: {text}"
        return text

    def status(self, command: str, limit: float = LIMIT) -> tuple[int, str]:
        """The status of *command* and what it says, to either output."""
        result = self.guest.run(f"exec 2>&1; {command}", cwd=self.directory, timeout=limit)
        return result.status, result.stdout.strip()

    def reach(self, connect: Callable[[], socket.socket], limit: float = LIMIT) -> socket.socket:
        """What *connect* gives as soon as the guest's program, just started, listens."""
        deadline = time.monotonic() + limit
        while True:
            try:
                return connect()
            except (ConnectionRefusedError, ConnectionResetError):
                assert time.monotonic() < deadline, f"nobody listens: {self.guest.console.text[-2000:]}"
            self.run("usleep 20000")

    def reach_vsock(self, cid: int, port: int) -> socket.socket:
        """The same with the vsock of this machine's kernel."""

        def connect() -> socket.socket:
            sock = socket.socket(socket.AF_VSOCK)
            sock.settimeout(LIMIT)
            try:
                sock.connect((cid, port))
            except BaseException:
                sock.close()
                raise
            return sock

        return self.reach(connect)

    def close(self) -> None:
        self.guest.close()
