"""KVM's counters of a VM or a vCPU, from its binary statistics file.

Source: Linux Documentation/virt/kvm/api.rst, 4.133 (KVM_GET_STATS_FD).
"""

from __future__ import annotations

import os
from ctypes import sizeof

from pyvmm.pykvm.abi_stats import kvm_stats_desc, kvm_stats_header
from pyvmm.pykvm.handle import Handle


class Statistics(Handle):
    """The counters by name: ``exits``, ``io_exits``, ``halt_exits`` and so on.

    ``id`` is KVM's own name for what is counted (``kvm-1234/vcpu-0``).
    """

    __slots__ = ("_layout", "_offset", "_size", "id")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        try:
            self._describe()
        except BaseException:
            self.close()
            raise

    def _describe(self) -> None:
        header = kvm_stats_header.from_buffer_copy(os.pread(self.fd, sizeof(kvm_stats_header), 0))
        self.id = os.pread(self.fd, header.name_size, header.id_offset).split(b"\0")[0].decode()
        step = sizeof(kvm_stats_desc) + header.name_size
        block = os.pread(self.fd, step * header.num_desc, header.desc_offset)
        # name -> (where in the data, how many values)
        self._layout: dict[str, tuple[int, int]] = {}
        for at in range(0, len(block), step):
            desc = kvm_stats_desc.from_buffer_copy(block, at)
            name = block[at + sizeof(kvm_stats_desc) : at + step].split(b"\0")[0].decode()
            self._layout[name] = (desc.offset // 8, desc.size)
        self._offset = header.data_offset
        self._size = 8 * max((first + count for first, count in self._layout.values()), default=0)

    def read(self) -> dict[str, int | list[int]]:
        """All counters as they are now; a histogram is a list of its buckets."""
        words = memoryview(os.pread(self.fd, self._size, self._offset)).cast("Q")
        return {
            name: words[first] if count == 1 else words[first : first + count].tolist()
            for name, (first, count) in self._layout.items()
        }
