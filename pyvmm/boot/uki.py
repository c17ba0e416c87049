"""Unified kernel images: kernel, initrd and command line in the sections of one EFI application.

Sources: the Unified Kernel Image specification of the UAPI group; systemd-stub(7) for what is done with the
sections. The EFI stub in the file is not run.
"""

from __future__ import annotations

from pyvmm.boot.errors import ImageError
from pyvmm.boot.pe import PeImage, signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LINUX, INITRD, UCODE, CMDLINE, DTB, PROFILE = ".linux", ".initrd", ".ucode", ".cmdline", ".dtb", ".profile"
_PARTS = (LINUX, INITRD, UCODE, CMDLINE)
#: Sections that make an add-on of a file without a kernel.
_ADDON = (CMDLINE, INITRD, UCODE, DTB)


class UnifiedKernel:
    """The parts of a unified kernel image.

    *kernel*: a kernel image. *initrds*: that for microcode first. *cmdline*: the command line,
    empty for none. *has_dtb*: whether it has a device tree for some board.
    """

    __slots__ = ("cmdline", "has_dtb", "initrds", "kernel")

    def __init__(
        self, kernel: memoryview, initrds: Sequence[memoryview], cmdline: str, has_dtb: bool
    ) -> None:
        self.kernel = kernel
        self.initrds = initrds
        self.cmdline = cmdline
        self.has_dtb = has_dtb


def unified_kernel(data: memoryview) -> UnifiedKernel | None:
    """The parts of *data*, if it is a PE image with a kernel in a section; None otherwise.

    Of an image with several profiles it is the first. Raises ImageError for parts that are not in the file.
    """
    if signature(data) is None:
        return None
    try:
        image = PeImage(data)
    except ImageError:
        return None  # it may be a kernel with a broken EFI stub
    sections = _first_profile(image)
    if LINUX not in sections:
        return None
    found = {name: image.contents(sections[name]) for name in _PARTS if name in sections}
    if not found[LINUX]:
        raise ImageError("the section .linux of this unified kernel image is empty; build it with a kernel")
    initrds = [found[name] for name in (UCODE, INITRD) if found.get(name)]
    line = bytes(found.get(CMDLINE, b"")).partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return UnifiedKernel(found[LINUX], initrds, line, DTB in sections)


def describe(data: memoryview) -> str:
    """What a file is that begins as PE images do and is no kernel: ``an EFI application for x86-64``."""
    if signature(data) is None:
        return "a DOS program, or a Windows or EFI executable that is cut short"
    try:
        image = PeImage(data)
    except ImageError:
        return "a Windows or EFI executable that is broken"
    names = [name for name, _, _ in image.sections]
    addon = next((name for name in _ADDON if name in names), None)
    if addon is not None and LINUX not in names:
        return f"an add-on of a unified kernel image for {image.machine}, with {addon} and no {LINUX}"
    return f"{image.subsystem} for {image.machine}"


def _first_profile(image: PeImage) -> dict[str, tuple[str, int, int]]:
    """The sections by name: those before ``.profile``, replaced by those up to the second one."""
    found: dict[str, tuple[str, int, int]] = {}
    for section in image.sections:
        name = section[0]
        if name == PROFILE and PROFILE in found:
            break
        if name not in found or PROFILE in found:
            found[name] = section
    return found
