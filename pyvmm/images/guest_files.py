"""The files that a guest boots, where we made or fetched them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class GuestFiles:
    """A guest ready to boot: the paths of its *kernel* image and *initrd*, the kernel's *release*.

    *missing*: the modules that the kernel lacks, of those that the default guest loads. *has_programs*:
    whether there is a busybox; without it our init is all that there is.
    """

    __slots__ = ("has_programs", "initrd", "kernel", "missing", "release")

    def __init__(
        self,
        kernel: str,
        initrd: str,
        release: str,
        missing: Iterable[str] = (),
        has_programs: bool = True,
    ) -> None:
        self.kernel = kernel
        self.initrd = initrd
        self.release = release
        self.missing = tuple(missing)
        self.has_programs = has_programs
