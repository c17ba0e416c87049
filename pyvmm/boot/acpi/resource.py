"""Resource descriptors: what a device's _CRS is made of.

Source: ACPI specification 6.5, section 6.4 (small descriptors: 6.4.2, large ones: 6.4.3).
"""

from __future__ import annotations

import struct

from pyvmm.boot.acpi.aml import AmlError, buffer

IRQ_DESCRIPTOR = 0x23  # small, three bytes follow
IO_PORT_DESCRIPTOR = 0x47
END_TAG = 0x79
MEMORY32_FIXED_DESCRIPTOR = 0x86
QWORD_ADDRESS_SPACE_DESCRIPTOR = 0x8A
EXTENDED_INTERRUPT_DESCRIPTOR = 0x89

_READ_WRITE = 1
_DECODE16 = 1
_CONSUMER = 1
_EDGE = 2
_SHARED = 8
# QWord address space: fixed minimum and maximum, positive decode; the device consumes it.
_FIXED_CONSUMED = 0x0D
_MEMORY_RANGE = 0


def template(*descriptors: bytes) -> bytes:
    """``ResourceTemplate () { descriptors }``. The end tag's checksum 0 means "not computed" (6.4.2.9).

    Raises AmlError from 2**28 bytes on.
    """
    return buffer(b"".join(descriptors) + bytes((END_TAG, 0)))


def io(base: int, length: int) -> bytes:
    """``IO (Decode16, ...)``: *length* ports from *base*; at most 255. Raises AmlError beyond that."""
    if not (0 <= base <= 0xFFFF and 1 <= length <= 0xFF and base + length <= 0x10000):
        raise AmlError(
            f"{length} I/O ports from {base:#x} do not fit a descriptor of 1 to 255 ports below 0x10000"
        )
    return struct.pack("<BBHHBB", IO_PORT_DESCRIPTOR, _DECODE16, base, base, 1, length)


def irq(number: int) -> bytes:
    """``IRQ (Edge, ActiveHigh, Exclusive) {number}``: ISA interrupt *number*.

    Raises AmlError outside of 0 to 15.
    """
    if not 0 <= number <= 15:
        raise AmlError(f"ISA interrupt {number} does not exist; they go from 0 to 15, use interrupt() beyond")
    return struct.pack("<BHB", IRQ_DESCRIPTOR, 1 << number, 1)


def interrupt(gsi: int, edge: bool, shared: bool) -> bytes:
    """``Interrupt (ResourceConsumer, Edge or Level, ActiveHigh, Exclusive or Shared) {gsi}`` (6.4.3.6).

    Raises AmlError for a *gsi* outside 0 to 2**32 - 1.
    """
    if not 0 <= gsi < 1 << 32:
        raise AmlError(f"interrupt {gsi} is no global system interrupt; it must be from 0 to 2**32 - 1")
    flags = _CONSUMER | (_EDGE if edge else 0) | (_SHARED if shared else 0)
    return struct.pack("<BHBBI", EXTENDED_INTERRUPT_DESCRIPTOR, 6, flags, 1, gsi)


def memory(base: int, size: int) -> bytes:
    """*size* bytes of memory-mapped registers at *base*: 32 bits wide where it fits, else 64.

    Raises AmlError as ``qword_memory`` does.
    """
    if base + size <= 1 << 32:
        return memory32_fixed(base, size)
    return qword_memory(base, size)


def memory32_fixed(base: int, size: int) -> bytes:
    """``Memory32Fixed (ReadWrite, base, size)``.

    *base*: guest-physical; *size* bytes, from 1 on. Raises AmlError unless they end by 4 GiB.
    """
    if not (base >= 0 and size > 0 and base + size <= 1 << 32):
        raise AmlError(f"{size:#x} bytes at {base:#x} do not lie below 4 GiB; use qword_memory()")
    return struct.pack("<BHBII", MEMORY32_FIXED_DESCRIPTOR, 9, _READ_WRITE, base, size)


def qword_memory(base: int, size: int) -> bytes:
    """``QWordMemory (ResourceConsumer, ..., NonCacheable, ReadWrite, ...)`` (6.4.3.5.1).

    *base*: guest-physical; *size* bytes, from 1 on. Raises AmlError unless they end by 2**64.
    """
    if not (base >= 0 and size > 0 and base + size <= 1 << 64):
        raise AmlError(f"{size:#x} bytes at {base:#x} do not lie in 64 bits of addresses")
    return struct.pack(
        "<BHBBBQQQQQ",
        QWORD_ADDRESS_SPACE_DESCRIPTOR,
        43,
        _MEMORY_RANGE,
        _FIXED_CONSUMED,
        _READ_WRITE,
        0,  # granularity
        base,
        base + size - 1,
        0,  # translation
        size,
    )
