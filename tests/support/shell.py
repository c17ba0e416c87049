"""A shell in a real Linux guest on this process's machine, so that a test has the devices in its hands."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyvmm.config import Config
from pyvmm.images import cpio
from pyvmm.images.default import default_guest
from pyvmm.loop import Loop
from pyvmm.machine.machine import Machine
from pyvmm.virtio.device import VirtioDevice
from tests.support.firmware_guest import Transcript
from tests.support.native import CONSOLE

#: Seconds a boot gets; the emulated host takes 10 to 30, twice that when it is shared.
BOOT = 120
#: Seconds a command gets.
LIMIT = 60
_PROMPT = b"~ # "


class Keyboard(Transcript):
    """A console that is typed at as fast as the guest reads."""

    def __init__(self) -> None:
        super().__init__()
        self._typed = b""
        self._space: Callable[[], int] = lambda: 0

    def attach(self, loop: Loop, receive: Callable[[bytes], object], space: Callable[[], int]) -> None:
        super().attach(loop, receive, space)
        self._space = space

    def type(self, text: str) -> None:
        assert self._loop is not None
        self._loop.call_soon(lambda: self._hand_on(text.encode()))

    def resume(self) -> None:
        assert self._loop is not None
        self._loop.call_soon(lambda: self._hand_on(b""))

    def _hand_on(self, more: bytes) -> None:
        self._typed += more
        # Asked until it says 0: only then does the device say that it has room again.
        while self._typed and (room := self._space()) > 0:
            part, self._typed = self._typed[:room], self._typed[room:]
            self._receive(part)


class Shell:
    """Debian's stock kernel with *devices*, booted to a shell on its serial console.

    :param programs: name to path, of programs to put into the guest's /bin
    :param folder: where to keep the archive they travel in
    """

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
        stock = default_guest()
        initrd = [stock.initrd]
        if programs:
            assert folder is not None, "programs need a folder"
            archive = folder / "programs.cpio"
            files = [cpio.file(f"bin/{name}", path.read_bytes(), 0o755) for name, path in programs.items()]
            archive.write_bytes(cpio.archive(files))
            initrd.append(str(archive))
        self.console = Keyboard()
        config = Config(
            kernel=stock.kernel,
            initrd=initrd,
            cmdline=f"console={CONSOLE} quiet panic=-1 {cmdline}",
            memory=memory,
            cpus=cpus,
            console="none",
            timeout=watchdog,
        )
        self.machine = Machine(config, console=self.console, devices=devices)
        self._count = 0
        try:
            self.machine.start()
            self.console.wait_for(_PROMPT, BOOT)
        except BaseException:
            self.machine.close()
            raise

    def run(self, command: str, limit: float = LIMIT) -> str:
        """What *command*, of one line, says; its status must be 0."""
        status, text = self.status(command, limit)
        assert status == 0, f"{command}: status {status}: {text}"
        return text

    def status(self, command: str, limit: float = LIMIT) -> tuple[int, str]:
        """The status of *command* and what it says."""
        self._count += 1
        begin, end = f"shell-{self._count}-begins", f"shell-{self._count}-ended:"
        # The echo of what is typed must not hold the marks themselves.
        echo = f"echo 'shell'-{self._count}"
        then = "" if command.endswith("&") else ";"
        self.console.type(f"{echo}-begins; {command}{then} {echo}-ended:$?.\r")
        pattern = re.compile(rb"%s\r?\n(.*)%s(\d+)\." % (begin.encode(), end.encode()), re.DOTALL)
        deadline = time.monotonic() + limit
        with self.console.spoken:
            # Looked at now and then besides: a machine that ends says nothing more.
            while not (ended := pattern.search(self.console.data)):
                left = deadline - time.monotonic()
                if self.machine.ending or left <= 0:
                    break
                self.console.spoken.wait(min(left, 1))
        why = (
            f"the machine ended ({self.machine.ending})"
            if self.machine.ending
            else f"no end within {limit} s"
        )
        assert ended, f"{command}: {why}: {self.console.text[-2000:]}"
        return int(ended[2]), ended[1].decode(errors="replace").replace("\r", "").strip()

    def reach(self, connect: Callable[[], socket.socket], limit: float = LIMIT) -> socket.socket:
        """What *connect* gives as soon as the guest's program, just started, listens."""
        deadline = time.monotonic() + limit
        while True:
            try:
                return connect()
            except (ConnectionRefusedError, ConnectionResetError):
                assert time.monotonic() < deadline, f"nobody listens: {self.console.text[-2000:]}"
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
        self.machine.stop()
        self.machine.wait()
