"""Lists of model-specific registers, as KVM takes and gives them.

Sources: ``struct kvm_msrs``, ``struct kvm_msr_entry``, ``struct kvm_msr_list`` in Linux
arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from ctypes import Array, c_char, create_string_buffer
from errno import E2BIG
from struct import Struct

from pyvmm.pykvm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.pykvm.handle import Handle

HEADER = Struct("=I4x")
ENTRY = Struct("=I4xQ")
LIST_HEADER = Struct("=I")


def pack(values: Iterable[tuple[int, int]]) -> Array[c_char]:
    """A ``kvm_msrs`` with pairs of register number and value."""
    entries = [ENTRY.pack(index, value) for index, value in values]
    data = HEADER.pack(len(entries)) + b"".join(entries)
    return create_string_buffer(data, len(data))


def unpack(buffer: Array[c_char], count: int) -> dict[int, int]:
    """The first *count* registers of a ``kvm_msrs``: number -> value."""
    end = HEADER.size + count * ENTRY.size
    return dict(ENTRY.iter_unpack(memoryview(buffer)[HEADER.size : end]))


def fetch_list(handle: Handle, request: int) -> list[int]:
    """The register numbers *request* gives; raises KvmError."""
    room = 256
    while True:
        buffer = create_string_buffer(LIST_HEADER.size * (1 + room))
        LIST_HEADER.pack_into(buffer, 0, room)
        try:
            handle.ioctl(request, buffer)
        except KvmError as error:
            if error.errno != E2BIG:
                raise
            room = LIST_HEADER.unpack_from(buffer)[0]  # KVM says how many there are
            continue
        words = memoryview(buffer).cast("B").cast("I")
        return words[1 : 1 + words[0]].tolist()
