"""An image and those below it: opened, their formats known, their headers checked.

The format of an image comes from the user, or from the end of its name: a guest writes what is in it, so
that alone decides nothing. Which file lies below another comes from the user alone. qemu-nbd gets descriptors
and a description of ours that names each driver and file, so that it opens nothing by a name from a header.
"""

from __future__ import annotations

import os

from pyvmm.backends.disk.base import DiskError
from pyvmm.backends.disk.file import is_device, open_image
from pyvmm.backends.disk.format import HEAD, TABLE_HEAD, detect, named_format
from pyvmm.backends.disk.header import backing_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.backends.disk.header import Backing

#: The formats that an image above may say its own has.
_BELOW = ("raw", "qcow2", "vmdk")


class ImageFile:
    """One image of a chain, open for reading. Raises DiskError when it cannot be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = open_image(path, True)
        try:
            self.is_device = is_device(self.fd, path)
            #: Its first bytes, TABLE_HEAD at most.
            self.head = os.pread(self.fd, TABLE_HEAD, 0)
        except OSError as error:
            os.close(self.fd)
            raise DiskError(f"disk {path} cannot be read: {error.strerror}; give another image") from None
        except BaseException:
            os.close(self.fd)
            raise
        self.format = "raw"


class ImageChain:
    """The image at *path* and, in this order, those below it: the files that *backing* names.

    :param format: of the first; ``auto`` takes it from the name

    Raises DiskError: also for an image that has another format, names a file that *backing* does not give, or
    has none below where *backing* gives one.
    """

    def __init__(self, path: str, format: str, backing: Sequence[str]) -> None:
        self.files: list[ImageFile] = []
        try:
            image = self._open(path)
            image.format = _format(image, format)
            for lower in backing:
                below = backing_of(image.fd, image.path, image.format)
                if below is None:
                    raise DiskError(f"disk {image.path} has no image below it: leave out backing={lower}")
                above, image = image, self._open(lower)
                image.format = _format_below(image, above, below, format)
            last = backing_of(image.fd, image.path, image.format)
            if last is not None:
                raise DiskError(
                    f"disk {image.path} has only the changes to another file, which it calls {last.name!r}; "
                    "if the guest may read that one, give it with backing=PATH"
                )
        except BaseException:
            self.close()
            raise

    @property
    def top(self) -> ImageFile:
        """The first image, which the guest writes to."""
        return self.files[0]

    def node(self, first_fd: int) -> dict[str, Any]:
        """The description for QEMU's block layer, whose descriptors count from *first_fd*."""
        node: dict[str, Any] | None = None
        for n, image in reversed(list(enumerate(self.files))):
            driver = "host_device" if image.is_device else "file"
            file = {"driver": driver, "filename": f"/proc/self/fd/{first_fd + n}"}
            node = {"driver": image.format, "file": file, "backing": node}
            if n:
                node["read-only"] = True
        assert node is not None
        return node

    def close(self) -> None:
        """Close the files. Idempotent."""
        while self.files:
            os.close(self.files.pop().fd)

    def _open(self, path: str) -> ImageFile:
        image = ImageFile(path)
        self.files.append(image)
        return image


def _format(image: ImageFile, asked: str) -> str:
    """The format of the first image, where the user *asked* for one or for ``auto``."""
    found = detect(image.head[:HEAD])
    if asked == "raw" or asked == found:
        return asked
    if asked != "auto":
        raise DiskError(f"disk {image.path} is {found}, not {asked}; give format={found}, or another image")
    named = named_format(image.path)
    if found == named:
        return found
    if found == "raw":
        raise DiskError(
            f"disk {image.path} is named as {named} and has no header of it; give format=raw if the guest is "
            "to see it as it is, or another image"
        )
    raise DiskError(
        f"disk {image.path} has a {found} header, which a guest may have written; give format={found} if you "
        "know that it is one, or format=raw"
    )


def _format_below(image: ImageFile, above: ImageFile, below: Backing, asked: str) -> str:
    """The format of an image below another: as that says, else by its name."""
    found = detect(image.head[:HEAD])
    wanted = below.format or named_format(image.path)
    if wanted not in (*_BELOW, asked):
        raise DiskError(f"disk {image.path}: {above.path} calls it {wanted}; only {', '.join(_BELOW)} may be")
    if wanted == found or below.format == "raw":
        return wanted
    raise DiskError(
        f"disk {image.path} is {found}, and {wanted} by {above.path} or its name; give another image, or "
        f"correct that: qemu-img rebase -u -F {found}"
    )
