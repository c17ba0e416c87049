"""A disk in a format of QEMU's: qemu-nbd reads and writes the image, and this process is its client.

qemu-nbd inherits a listening socket as systemd passes one (LISTEN_FDS, sd_listen_fds(3)), with our
connection pending in it: nothing to poll for, and no name that another process could connect to. It ends when
the connection does, however this process ended, and with it its lock on the image.
"""

from __future__ import annotations

import json
import os
import shutil
import socket

from pyvmm.backends.disk.base import SECTOR, DiskError
from pyvmm.backends.disk.nbd import NbdDisk
from pyvmm.backends.listener import private_pair
from pyvmm.host.child import FIRST_FD, Child, spawn
from pyvmm.host.printable import printable
from pyvmm.host.restricted import restricted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.backends.disk.chain import ImageChain

_PROGRAM = "qemu-nbd"
#: Seconds qemu-nbd may take to write out its cache when the connection has ended.
_PATIENCE = 30.0
#: Where a snapshot's writes go without TMPDIR, or where that is /tmp (create_tmp_file in QEMU's block.c).
_TEMPORARY = "/var/tmp"
#: Bytes of its error output that are read.
_ERRORS = 4096
# The process id is known to the child alone; a shell puts it into the environment.
_SCRIPT = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'


class QemuDisk(NbdDisk):
    """The first image of *chain*, whose descriptors stay its caller's.

    :param direct: past the host's page cache
    :param snapshot: writes go to a temporary file that is removed at the end
    :param block_size: bytes of the guest's blocks, a power of two from 512; None: 512

    Raises DiskError when qemu-nbd is missing or refuses the image, with its reason; BackendError when it
    cannot be connected to.
    """

    def __init__(
        self,
        chain: ImageChain,
        readonly: bool,
        direct: bool,
        snapshot: bool,
        block_size: int | None = None,
    ) -> None:
        path = chain.top.path
        self.format = chain.top.format
        self._process: Child | None = None
        program = shutil.which(_PROGRAM)
        if program is None:
            raise DiskError(
                f"disk {path} needs {_PROGRAM}, which is not here; install it (Debian: qemu-utils), or "
                "convert the image to raw"
            )
        command = [program, "--aio=threads", "--discard=unmap"]
        command += [f"--cache={'none' if direct else 'writeback'}"]
        if readonly:
            command.append("--read-only")
        if snapshot:
            command.append("--snapshot")
        # The listening socket is the first descriptor. Each image is opened anew, by its descriptor.
        first = FIRST_FD + 1
        name = f"json:{json.dumps(chain.node(first))}"
        command += ["--", name]
        top_is_written = not readonly and not snapshot
        command = restricted(
            command,
            reads=range(first + top_is_written, first + len(chain.files)),
            writes=[first] if top_is_written else [],
            alone=True,
            folders=[os.environ.get("TMPDIR") or _TEMPORARY, _TEMPORARY] if snapshot else [],
        )
        errors = os.memfd_create("qemu-nbd", os.MFD_CLOEXEC)
        try:
            link = self._start(command, [image.fd for image in chain.files], errors)
            try:
                super().__init__(link, path, block_size or SECTOR)
            except OSError:
                self._end()
                raise _refusal(chain, name, os.pread(errors, _ERRORS, 0)) from None
            except BaseException:
                self._end()
                raise
        finally:
            os.close(errors)

    def describe(self) -> str:
        """Format and path, as ``qcow2 PATH``."""
        return f"{self.format} {self.path}"

    def close(self) -> None:
        """Disconnect, and wait until qemu-nbd has written everything to the image."""
        super().close()
        self._end()

    def close_copy(self) -> None:
        """Disconnect; qemu-nbd is another process's child."""
        self._disconnect()

    def _start(self, command: list[str], images: list[int], errors: int) -> socket.socket:
        """Start qemu-nbd; returns the connection to it."""
        listener, link = private_pair()
        with listener:
            try:
                # sd_listen_fds(3) begins where spawn does.
                self._process = spawn(
                    ["sh", "-c", _SCRIPT, "sh", *command],
                    fds=[listener.fileno(), *images],
                    errors=errors,
                    keep=["TMPDIR"],  # where a snapshot's writes go
                )
            except OSError as error:
                link.close()
                raise DiskError(
                    f"{_PROGRAM} cannot be run: {error.strerror}; see the limit of processes (ulimit -u)"
                ) from None
        return link

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(_PATIENCE)


def _refusal(chain: ImageChain, name: str, errors: bytes) -> DiskError:
    """The sentence for what qemu-nbd wrote about the image that it was given as *name*."""
    image = chain.top
    text = errors.decode(errors="replace").replace(f"Failed to blk_new_open '{name}': ", "")
    for n, each in enumerate(chain.files, FIRST_FD + 1):
        text = text.replace(f"/proc/self/fd/{n}'", f"{each.path}'")
    lines = text.strip().splitlines()
    reason = printable(lines[0].removeprefix(f"{_PROGRAM}: ")) if lines else "it gave no reason"
    if any("lock" in line for line in lines):
        return DiskError(
            f"disk {image.path} is in use by another process; end that, or give ro here and there"
        )
    return DiskError(f"disk {image.path} cannot be opened as {image.format}: {_PROGRAM} says: {reason}")
