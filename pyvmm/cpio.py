"""cpio archives in the "newc" format: the headers, and reading an archive piece by piece.

Source: the kernel's ``Documentation/driver-api/early-userspace/buffer-format.rst``. ``images/cpio.py`` makes
initramfs archives out of it, ``exec/tree.py`` moves files to and from guests.
"""

from __future__ import annotations

import struct
from binascii import unhexlify

from pyvmm.errors import ConfigError

MAGIC = b"070701"
#: The name of the last entry.
TRAILER = "TRAILER!!!"
#: Bytes of content that an entry has at most: the header's field has 32 bits.
SIZE_MAX = (1 << 32) - 1
#: Bytes of a path that a reader takes, the zero byte at its end included: Linux's PATH_MAX.
NAME_MAX = 4096

_FIELDS = 13
_NUMBERS = struct.Struct(f">{_FIELDS}I")
HEADER_SIZE = len(MAGIC) + 8 * _FIELDS


class CpioError(ConfigError):
    """An archive that cannot be written or read."""


class Header:
    """What an archive says of one file, before its content.

    *name* is relative to wherever the archive is unpacked; *mode* has the type bits of ``stat.h``; *mtime* is
    in seconds since 1970; *size* is the length in bytes of a regular file's content or a symbolic link's
    target; *device* is (major, minor) of a device node.
    """

    __slots__ = ("device", "mode", "mtime", "name", "size")

    def __init__(
        self, name: str, mode: int, size: int = 0, mtime: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        self.name = name
        self.mode = mode
        self.size = size
        self.mtime = mtime
        self.device = device

    def pack(self, inode: int) -> bytes:
        """The header and the name, with their padding. Raises CpioError for content of 4 GiB and more.

        *inode*: a number of 32 bits that no other file of the archive has.
        """
        if self.size > SIZE_MAX:
            raise CpioError(
                f"{self.name} has {self.size} bytes, and an archive holds files of less than 4 GiB; split it"
            )
        name = self.name.encode(errors="surrogateescape") + b"\0"
        links = 2 if self.mode & 0o170000 == 0o040000 else 1
        mtime = min(max(0, self.mtime), 0xFFFFFFFF)
        major, minor = self.device
        fields = (inode, self.mode, 0, 0, links, mtime, self.size, 0, 0, major, minor, len(name), 0)
        head = MAGIC + b"".join(b"%08X" % field for field in fields) + name
        return head + padding(len(head))


def padding(size: int) -> bytes:
    """The zero bytes after *size* bytes of header and name, or of content."""
    return b"\0" * (-size % 4)


class Reader:
    """An archive that comes piece by piece: ``feed`` bytes, and take out headers and content.

    It holds one header at most, and no content.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._left = 0  # content of the entry at hand that is still to come
        self._skip = 0  # its padding
        #: True after the last entry; what follows is ignored.
        self.ended = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Header | bytes]:
        """What *data* completes: a Header for each entry, then its content in one or more pieces.

        An entry without content is followed by none. Raises CpioError for anything malformed.
        """
        items: list[Header | bytes] = []
        held = self._held
        held += data
        at, size = 0, len(held)
        with memoryview(held) as view:
            while not self.ended:
                if self._left or self._skip:
                    piece = min(self._left, size - at)
                    if piece:
                        items.append(bytes(view[at : at + piece]))
                    skipped = min(self._skip, size - at - piece)
                    self._left -= piece
                    self._skip -= skipped
                    at += piece + skipped
                    if self._left or self._skip:
                        break
                header, used = _header(view[at:])
                if header is None:
                    break
                at += used
                if header.name == TRAILER:
                    self.ended = True
                    break
                items.append(header)
                self._left, self._skip = header.size, -header.size % 4
        del held[: size if self.ended else at]
        return items


def _header(data: memoryview) -> tuple[Header | None, int]:
    """The header that *data* begins with and its size; None while it is not complete."""
    if len(data) < HEADER_SIZE:
        return None, 0
    if data[: len(MAGIC)] != MAGIC:
        raise CpioError("this is no cpio archive in the newc format, or it is damaged")
    try:
        fields = _NUMBERS.unpack(unhexlify(data[len(MAGIC) : HEADER_SIZE]))
    except ValueError:
        raise CpioError("the archive has a header with a field that is no number") from None
    length = fields[11]
    if not 2 <= length <= NAME_MAX:
        raise CpioError(
            f"the archive has a name of {length} bytes; 2 to {NAME_MAX} with its zero are allowed"
        )
    end = HEADER_SIZE + length
    whole = end + -end % 4
    if len(data) < whole:
        return None, 0
    name = bytes(data[HEADER_SIZE : end - 1])
    if data[end - 1] or b"\0" in name:
        raise CpioError("the archive has a name that does not end where its header says")
    header = Header(
        name.decode(errors="surrogateescape"), fields[1], fields[6], fields[5], (fields[9], fields[10])
    )
    return header, whole
