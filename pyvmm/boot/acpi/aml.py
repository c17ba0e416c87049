r"""ACPI Machine Language: a function an operator, each returning the encoded bytes.

Source: ACPI specification 6.5, chapter 20 (grammar, opcodes, PkgLength). Terms nest as in the
source language: ``device("PWRB", name("_HID", eisaid("PNP0C0C")))``. Names are written as
there, ``\_SB.PWRB``: segments shorter than four characters are padded with underscores.
"""

from __future__ import annotations

from pyvmm.errors import PyvmmError

ZERO_OP = b"\x00"
ONE_OP = b"\x01"
NAME_OP = b"\x08"
BYTE_PREFIX = b"\x0a"
WORD_PREFIX = b"\x0b"
DWORD_PREFIX = b"\x0c"
STRING_PREFIX = b"\x0d"
QWORD_PREFIX = b"\x0e"
SCOPE_OP = b"\x10"
BUFFER_OP = b"\x11"
PACKAGE_OP = b"\x12"
METHOD_OP = b"\x14"
DUAL_NAME_PREFIX = b"\x2e"
MULTI_NAME_PREFIX = b"\x2f"
LOCAL0_OP = 0x60
ARG0_OP = 0x68
STORE_OP = b"\x70"
AND_OP = b"\x7b"
NOTIFY_OP = b"\x86"
LEQUAL_OP = b"\x93"
IF_OP = b"\xa0"
ELSE_OP = b"\xa1"
RETURN_OP = b"\xa4"
OP_REGION_OP = b"\x5b\x80"
FIELD_OP = b"\x5b\x81"
DEVICE_OP = b"\x5b\x82"

#: Region spaces (20.2.5.2).
SYSTEM_MEMORY = 0
SYSTEM_IO = 1

#: Field access types (20.2.5.2), for ``field``.
BYTE_ACC = 1
WORD_ACC = 2
DWORD_ACC = 3
#: Field update rule: bits outside the field are written as zeros.
_WRITE_AS_ZEROS = 2 << 5

_SERIALIZED = 8
_PKG_LENGTH_LIMIT = 1 << 28
_FIRST = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
_FOLLOWING = _FIRST + "0123456789"


class AmlError(PyvmmError):
    """A term that AML cannot express: a defect of the device's description."""


def pkg_length(body: int) -> bytes:
    """The PkgLength of a package whose content is *body* bytes long; it counts itself (20.2.4).

    Raises AmlError from 2**28 bytes on.
    """
    # One byte holds six bits. With 1-3 bytes behind it the first holds four, and how many follow.
    if body + 1 < 1 << 6:
        return bytes((body + 1,))
    for following in (1, 2, 3):
        total = body + 1 + following
        if total < 1 << (4 + 8 * following):
            return bytes((following << 6 | total & 0xF,)) + (total >> 4).to_bytes(following, "little")
    raise AmlError(f"an AML package of {body} bytes is too long; the limit is {_PKG_LENGTH_LIMIT} bytes")


def _packaged(opcode: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return opcode + pkg_length(len(body)) + body


def name_seg(text: str) -> bytes:
    """One segment of a name: capitals, digits and underscores, no digit first, at most four (20.2.2).

    Raises AmlError for anything else.
    """
    if not 1 <= len(text) <= 4 or text[0] not in _FIRST or any(c not in _FOLLOWING for c in text):
        raise AmlError(
            f"{text!r} is not an ACPI name; use one to four capitals, digits and underscores, no digit first"
        )
    return text.ljust(4, "_").encode()


def path(text: str) -> bytes:
    r"""A name string: ``PWRB``, ``\_SB.PWRB``, ``^PWRB`` (20.2.2). Raises AmlError for anything else."""
    rest = text.lstrip("^") if text.startswith("^") else text.removeprefix("\\")
    prefix = text[: len(text) - len(rest)].encode()
    segments = [name_seg(segment) for segment in rest.split(".")] if rest else []
    if not segments:
        return prefix + b"\x00"
    if len(segments) == 1:
        return prefix + segments[0]
    if len(segments) == 2:
        return prefix + DUAL_NAME_PREFIX + b"".join(segments)
    if len(segments) > 255:
        raise AmlError(f"an ACPI name of {len(segments)} segments is too long; the limit is 255")
    return prefix + MULTI_NAME_PREFIX + bytes((len(segments),)) + b"".join(segments)


def integer(value: int) -> bytes:
    """A number, 0 <= value < 2**64, in the shortest form (20.2.3). Raises AmlError beyond that."""
    if value in (0, 1):
        return (ZERO_OP, ONE_OP)[value]
    for size, prefix in ((1, BYTE_PREFIX), (2, WORD_PREFIX), (4, DWORD_PREFIX), (8, QWORD_PREFIX)):
        if 0 <= value < 1 << 8 * size:
            return prefix + value.to_bytes(size, "little")
    raise AmlError(f"{value} does not fit an ACPI integer; it must be from 0 to 2**64 - 1")


def string(text: str) -> bytes:
    """A string of ASCII characters 0x01-0x7f (20.2.3). Raises AmlError for others."""
    if not all(0 < ord(c) < 0x80 for c in text):
        raise AmlError(f"{text!r} is not an ACPI string; use ASCII characters other than NUL")
    return STRING_PREFIX + text.encode() + b"\x00"


def buffer(data: bytes) -> bytes:
    """A buffer with *data* in it. Raises AmlError from 2**28 bytes on."""
    return _packaged(BUFFER_OP, integer(len(data)), data)


def package(*elements: bytes) -> bytes:
    """A package of at most 255 encoded elements. Raises AmlError for more."""
    if len(elements) > 255:
        raise AmlError(f"an ACPI package of {len(elements)} elements is too long; the limit is 255")
    return _packaged(PACKAGE_OP, bytes((len(elements),)), *elements)


def is_eisaid(text: str) -> bool:
    """Whether *text* has the form of a compressed EISA identifier: three letters, four hex digits."""
    return (
        len(text) == 7
        and all(c in _FIRST[:26] for c in text[:3])
        and all(c in "0123456789ABCDEF" for c in text[3:])
    )


def eisaid(text: str) -> bytes:
    """A compressed EISA identifier such as ``PNP0501`` (19.6, EISAID). Raises AmlError for another form.

    Three letters of five bits, then the digits; in memory the most significant byte is first.
    """
    if not is_eisaid(text):
        raise AmlError(f"{text!r} is not an EISA identifier; use three capitals and four hex digits")
    value = int(text[3:], 16)
    for place, letter in zip((26, 21, 16), text[:3], strict=True):
        value |= (ord(letter) - 0x40) << place
    return DWORD_PREFIX + value.to_bytes(4, "big")


def hid(text: str) -> bytes:
    """A hardware identifier as _HID wants it: compressed where it has the form, else a string (6.1.5).

    Raises AmlError as ``string`` does.
    """
    return eisaid(text) if is_eisaid(text) else string(text)


def name(target: str, value: bytes) -> bytes:
    """``Name (target, value)``. Raises AmlError as ``path`` does."""
    return NAME_OP + path(target) + value


def scope(target: str, *terms: bytes) -> bytes:
    """``Scope (target) { terms }``. Raises AmlError as ``path`` does, and from 2**28 bytes on."""
    return _packaged(SCOPE_OP, path(target), *terms)


def device(target: str, *terms: bytes) -> bytes:
    """``Device (target) { terms }``. Raises AmlError as ``scope`` does."""
    return _packaged(DEVICE_OP, path(target), *terms)


def method(target: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """``Method (target, arguments, ...) { terms }``; *arguments*: 0 to 7.

    Raises AmlError for more, and as ``scope`` does.
    """
    if not 0 <= arguments <= 7:
        raise AmlError(f"ACPI method {target} cannot have {arguments} arguments; the limit is 7")
    flags = arguments | (_SERIALIZED if serialized else 0)
    return _packaged(METHOD_OP, path(target), bytes((flags,)), *terms)


def op_region(target: str, space: int, base: int, length: int) -> bytes:
    """``OperationRegion``: *length* bytes at *base* of *space*, SYSTEM_MEMORY or SYSTEM_IO.

    Raises AmlError as ``path`` does, and for a number outside 0 to 2**64 - 1.
    """
    return OP_REGION_OP + path(target) + bytes((space,)) + integer(base) + integer(length)


def field(region: str, access: int, *units: tuple[str | None, int]) -> bytes:
    """``Field (region, access, NoLock, WriteAsZeros)``: (name, bits) in turn; None skips the bits.

    *access*: BYTE_ACC, WORD_ACC or DWORD_ACC. Raises AmlError for what is no name, and from 2**28 bits on.
    """
    encoded = [
        (name_seg(unit) if unit is not None else b"\x00") + _field_length(bits) for unit, bits in units
    ]
    return _packaged(FIELD_OP, path(region), bytes((access | _WRITE_AS_ZEROS,)), *encoded)


def _field_length(bits: int) -> bytes:
    """A field's width in PkgLength form: here it does not count itself (20.2.5.2)."""
    if bits < 1 << 6:
        return bytes((bits,))
    for following in (1, 2, 3):
        if bits < 1 << (4 + 8 * following):
            return bytes((following << 6 | bits & 0xF,)) + (bits >> 4).to_bytes(following, "little")
    raise AmlError(f"an ACPI field of {bits} bits is too long; the limit is {_PKG_LENGTH_LIMIT} bits")


def local(number: int) -> bytes:
    """``Local0`` to ``Local7``, by *number*."""
    return bytes((LOCAL0_OP + number,))


def arg(number: int) -> bytes:
    """``Arg0`` to ``Arg6``, by *number*."""
    return bytes((ARG0_OP + number,))


def store(value: bytes, target: bytes) -> bytes:
    """``target = value``."""
    return STORE_OP + value + target


def bit_and(left: bytes, right: bytes) -> bytes:
    """``left & right``, stored nowhere."""
    return AND_OP + left + right + ZERO_OP


def equal(left: bytes, right: bytes) -> bytes:
    """``left == right``."""
    return LEQUAL_OP + left + right


def notify(target: str, value: int) -> bytes:
    """``Notify (target, value)``: tell the driver of *target*; 5.6.6 has the meanings of *value*.

    Raises AmlError as ``path`` does.
    """
    return NOTIFY_OP + path(target) + integer(value)


def if_(predicate: bytes, *terms: bytes) -> bytes:
    """``If (predicate) { terms }``. Raises AmlError from 2**28 bytes on."""
    return _packaged(IF_OP, predicate, *terms)


def else_(*terms: bytes) -> bytes:
    """``Else { terms }``, straight behind an ``if_``. Raises AmlError from 2**28 bytes on."""
    return _packaged(ELSE_OP, *terms)


def return_(value: bytes) -> bytes:
    """``Return (value)``."""
    return RETURN_OP + value
