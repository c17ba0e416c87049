"""CPUID leaves, as KVM takes and gives them.

A leaf is ``(function, index, flags, [eax, ebx, ecx, edx])``; flags bit 0 says that the index counts.
Sources: ``struct kvm_cpuid2`` and ``struct kvm_cpuid_entry2`` in Linux arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from ctypes import Array, c_char, create_string_buffer
from errno import E2BIG, ENOMEM
from struct import Struct

from pyvmm.pykvm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.pykvm.handle import Handle

    Leaf = tuple[int, int, int, list[int]]

HEADER = Struct("=I4x")
ENTRY = Struct("=7I12x")


def pack(leaves: Iterable[Leaf]) -> Array[c_char]:
    """A ``kvm_cpuid2`` with *leaves*."""
    entries = [ENTRY.pack(function, index, flags, *registers) for function, index, flags, registers in leaves]
    data = HEADER.pack(len(entries)) + b"".join(entries)
    return create_string_buffer(data, len(data))


def fetch(handle: Handle, request: int) -> list[Leaf]:
    """The leaves *request* gives, asking for more room until they fit; raises KvmError."""
    room = 128
    while True:
        buffer = create_string_buffer(HEADER.size + room * ENTRY.size)
        HEADER.pack_into(buffer, 0, room)
        try:
            handle.ioctl(request, buffer)
        except KvmError as error:
            # KVM_GET_EMULATED_CPUID says ENOMEM where the others say E2BIG.
            if error.errno not in (E2BIG, ENOMEM) or room > 4096:
                raise
            room *= 2
            continue
        end = HEADER.size + HEADER.unpack_from(buffer)[0] * ENTRY.size
        found = ENTRY.iter_unpack(memoryview(buffer)[HEADER.size : end])
        return [(function, index, flags, list(registers)) for function, index, flags, *registers in found]
