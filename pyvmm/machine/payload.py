"""What a config boots: kernel, initrds and command line, or firmware, read and put into guest memory."""

from __future__ import annotations

import os
import stat

from pyvmm.arch import native
from pyvmm.boot.errors import ImageError
from pyvmm.errors import ConfigError
from pyvmm.host.opened import open_file
from pyvmm.memory.errors import HostMemoryError
from pyvmm.memory.host import PAGE_SIZE, Anonymous
from pyvmm.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

    from pyvmm.arch.interface import Platform, Rom
    from pyvmm.boot.entry import BootEntry
    from pyvmm.config import Config
    from pyvmm.memory.guest import GuestMemory

#: What a Linux kernel is told when the user says nothing.
DEFAULT_CMDLINE = "console={} panic=-1"
#: Added where that init is to give a shell on the console.
SHELL_PARAMETER = "pyvmm.shell"
#: Added for ``exec``, whose output is the command's: the kernel's log causes most exits of a boot.
QUIET = "quiet"
#: For the init that serves the exec channel: it uses the first of the two devices that its kernel has.
EXEC_CMDLINE = "rdinit=/.pyvmm/init pyvmm.exec=/dev/virtio-ports/pyvmm.exec|/dev/{}"
#: Bytes of the largest kernel or firmware file that is read: 32-bit loaders address no more.
IMAGE_MAX = 4 << 30
#: A config's name for the first serial port; this architecture's kernels may have another.
SERIAL = "ttyS0"


def read_image(path: str, what: str, limit: int = IMAGE_MAX, remedy: str = "") -> memoryview:
    """The bytes of regular file *path*. Raises ImageError naming *what* and the path.

    *limit*: bytes of the largest file that is read. *remedy*: what to do about a larger one. A copy, not a
    mapping: reading a mapped file that was truncated meanwhile ends the process with SIGBUS.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its other end.
        fd = open_file(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(f"{what} {path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            is_what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"{what} {path} is {is_what}; give the path of an image file")
        size = status.st_size
        if size == 0:
            raise ImageError(f"{what} {path} is empty; give a whole image")
        if size > limit:
            remedy = remedy or f"give an image of at most {format_size(limit)}"
            raise ImageError(f"{what} {path} has {format_size(size)}; {remedy}")
        try:
            data = Anonymous(-(-size // PAGE_SIZE) * PAGE_SIZE).buffer[:size]
        except HostMemoryError:
            raise ImageError(f"{what} {path}: the host has no memory for its {format_size(size)}") from None
        done = 0
        while done < size:
            got = os.preadv(fd, [data[done:]], done)  # other descriptors may share the file's position
            if not got:
                raise ImageError(f"{what} {path} was cut off while it was read; give a whole image")
            done += got
        return data.toreadonly()
    except OSError as error:
        raise ImageError(f"{what} {path} cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)


def read_rom(config: Config) -> Rom | None:
    """The firmware as a ROM; None without firmware, and for firmware in RAM. Raises ImageError."""
    if config.firmware is None:
        return None
    data = read_image(config.firmware, "firmware")
    return _named(config.firmware, native.read_rom(), data, config)


def load_image(
    config: Config, memory: GuestMemory, platform: Platform, rom: Rom | None, serve_exec: bool, shell: bool
) -> BootEntry:
    """Load what the config names; returns where CPU 0 starts. Raises ImageError, ConfigError.

    With *serve_exec*, a Linux kernel starts the init that serves the exec channel; with *shell* as well, this
    init gives a shell on the console.
    """
    if config.firmware is not None:
        data = memoryview(rom.data) if rom is not None else read_image(config.firmware, "firmware")
        return _named(config.firmware, platform.load_firmware, memory, data, rom)
    if config.kernel is None:
        raise ConfigError("there is nothing to boot: give a kernel (--kernel) or a firmware (--firmware)")
    image = read_image(config.kernel, "kernel")
    kernel, own_initrds, own_cmdline = _named(config.kernel, _parts, image)
    room = config.memory_size
    remedy = f"give the guest more memory than that, it has {format_size(room)}"
    initrds = [*own_initrds, *(read_image(path, "initrd", room, remedy) for path in config.initrd)]
    if serve_exec:
        from pyvmm.images.initramfs import exec_overlay

        initrds.append(memoryview(exec_overlay(native.DEBIAN)))
    # What a unified kernel image has in .linux is Linux.
    linux = kernel is not image or _named(config.kernel, platform.may_be_linux, kernel)
    cmdline = kernel_cmdline(config, platform, serve_exec, shell, own_cmdline, linux)
    return _named(config.kernel, platform.load_kernel, memory, kernel, cmdline, initrds)


def _parts(image: memoryview) -> tuple[memoryview, Sequence[memoryview], str]:
    """Kernel, initrds and command line of a unified kernel image; of another, the image alone."""
    from pyvmm.boot.uki import unified_kernel

    unified = unified_kernel(image)
    if unified is None:
        return image, (), ""
    if unified.has_dtb:
        from pyvmm.host.notice import notice

        notice(
            "unified kernel dtb",
            "the device tree in the unified kernel image is another board's: it is not used",
        )
    return unified.kernel, unified.initrds, unified.cmdline


def kernel_cmdline(
    config: Config,
    platform: Platform,
    serve_exec: bool,
    shell: bool = False,
    own: str = "",
    linux: bool = True,
) -> str:
    """The kernel command line, with what the exec channel needs.

    It is the user's; without one the default, and behind it *own*, that of a unified kernel image, as Linux
    takes the later of two values. A kernel that is not *linux* gets nothing that is for Linux: its default is
    the name of its file, the first word by the custom of boot loaders.
    """
    from pyvmm.boot.cmdline import add, one_line  # here: firmware starts without it

    if not linux:
        return os.path.basename(config.kernel or "") if config.cmdline is None else one_line(config.cmdline)
    if config.cmdline is None:
        console = platform.console_name if config.kernel_console == SERIAL else config.kernel_console
        quiet = QUIET if config.exec is not None else ""
        default = [DEFAULT_CMDLINE.format(console), platform.kernel_parameters, quiet, one_line(own)]
        cmdline = " ".join(filter(None, default))
    else:
        cmdline = one_line(config.cmdline)
    if serve_exec:
        cmdline = add(cmdline, [EXEC_CMDLINE.format(platform.channel_name)])
        if shell:
            cmdline = add(cmdline, [SHELL_PARAMETER])
    return cmdline


def _named(path: str, function: Callable[..., T], *arguments: object) -> T:
    """Call a loader; an ImageError it raises gets the file's path in front."""
    try:
        return function(*arguments)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from None
