"""Which virtualization this host's KVM uses, and how fast it runs ring 0."""

from __future__ import annotations

import os
import time
from mmap import PAGESIZE

from pyvmm.arch.x86_64 import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.pykvm import Kvm

VMX = "VT-x"
SVM = "AMD-V"
PVM = "PVM"
UNKNOWN = "unknown"

#: Bytes that KVM allocates with a memslot for each of its pages where it has shadow page tables: in
#: arch.rmap 8, in arch.gfn_write_track 2 (kvm_alloc_memslot_metadata in Linux arch/x86/kvm/x86.c).
_SHADOW_PAGE_LISTS = 10
_MODULES = (("kvm_intel", VMX), ("kvm_amd", SVM), ("kvm_pvm", PVM))

#: The capabilities that every machine needs.
NEEDED = (
    "IRQCHIP",
    "USER_MEMORY",
    "SET_TSS_ADDR",
    "SET_IDENTITY_MAP_ADDR",
    "PIT2",
    "IMMEDIATE_EXIT",
    "EXT_CPUID",
)
#: The capabilities that are used where KVM has them.
USED = (
    "IOEVENTFD",
    "IRQFD",
    "IRQFD_RESAMPLE",
    "COALESCED_MMIO",
    "COALESCED_PIO",
    "READONLY_MEM",
    "TSC_DEADLINE_TIMER",
    "BINARY_STATS_FD",
    "XSAVE2",
    "SYNC_MMU",
)

#: Real mode: ``mov ecx, 20000``, ``loop`` to itself, ``out 0x80, al``.
_LOOP = bytes.fromhex("66b9204e0000 67e2fd e680")
_ROUNDS = 20000
_LOOP_AT = 0x1000


def virtualization() -> str:
    """VT-x, AMD-V or PVM, by the loaded KVM module; unknown when it is built into the kernel.

    PVM runs ring 0 through an instruction emulator, which lacks instructions that a Linux
    kernel uses.
    """
    return next((kind for module, kind in _MODULES if os.path.isdir(f"/sys/module/{module}")), UNKNOWN)


def check_ram(size: int) -> None:
    """Raise HostMemoryError where KVM's lists for *size* bytes of RAM need more memory than the host has.

    With shadow page tables it makes them whole when a memslot is set: for 2T that is 5 GiB, in seconds. What
    this process may not look at is not checked.
    """
    need = -(-size // PAGESIZE) * _SHADOW_PAGE_LISTS
    available = _available()
    if _has_nested_paging() or available is None or need <= available:
        return
    from pyvmm.memory.errors import HostMemoryError

    raise HostMemoryError(
        f"{size >> 20}M of guest memory need {need >> 20} MiB for lists of this host's KVM, which has "
        f"no nested paging, and {available >> 20} MiB are available; ask for less memory"
    )


def _has_nested_paging() -> bool:
    """Whether this host's KVM uses EPT or NPT, as far as it tells."""
    kind = virtualization()
    name = {VMX: "kvm_intel/parameters/ept", SVM: "kvm_amd/parameters/npt"}.get(kind)
    if name is None:
        return kind != PVM
    try:
        with open(f"/sys/module/{name}") as file:
            return file.read().strip() not in ("N", "0")
    except OSError:
        return True


def _available() -> int | None:
    """Bytes that programs of this host may still have without swapping; None where that is not told."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def runs_ring0_in_hardware() -> bool:
    """Whether guests' kernels run on the processor itself, by the loaded KVM module."""
    return virtualization() in (VMX, SVM)


def describe_virtualization(speed: str) -> tuple[bool, str, str]:
    """For doctor: whether guests' kernels run at full speed, a description, and advice where they do not."""
    kind = virtualization()
    if kind == PVM:
        return (
            False,
            f"PVM, without VT-x or AMD-V: ring 0 is emulated, {speed}",
            "firmware and small guests run; boot stock kernels with `pyvmm lab x86_64 -- pyvmm run ...`",
        )
    return True, f"{'not known by its module' if kind == UNKNOWN else kind}; {speed}", ""


def kernel_warning() -> str:
    """A warning for users who boot a kernel on this host; empty for none."""
    if virtualization() != PVM:
        return ""
    return (
        "this host's KVM (PVM) emulates ring 0 at a thousandth of the speed and lacks instructions; "
        "`pyvmm lab x86_64 -- pyvmm run ...` boots kernels"
    )


def extras(kvm: Kvm) -> list[tuple[str, str]]:
    """For doctor: further lines, ``(name, value)`` each."""
    return []


def ring0_speed(kvm: Kvm) -> float:
    """Instructions per second of a real-mode loop; measured in about 50 ms where ring 0 is emulated.

    Raises KvmError, HostMemoryError.
    """
    from pyvmm.memory.guest import GuestMemory, Region
    from pyvmm.memory.host import Anonymous
    from pyvmm.memory.slots import Slots
    from pyvmm.pykvm import KvmError

    memory = GuestMemory([Region(0, 0x10000, Anonymous(0x10000))])
    try:
        with kvm.create_vm() as vm:
            vm.set_identity_map_addr(layout.IDENTITY_MAP)
            vm.set_tss_addr(layout.TSS)
            Slots(vm, memory).install()
            memory.write(_LOOP_AT, _LOOP)
            with vm.create_vcpu(0) as vcpu:
                sregs = vcpu.get_sregs()
                sregs.cs.base = sregs.cs.selector = 0
                vcpu.set_sregs(sregs)
                regs = vcpu.get_regs()
                regs.rip, regs.rflags = _LOOP_AT, 2
                vcpu.set_regs(regs)
                begin = time.perf_counter()
                if vcpu.run_raw() < 0:
                    raise KvmError("KVM_RUN", vcpu.last_errno(), "")
                return _ROUNDS / (time.perf_counter() - begin)
    finally:
        memory.close()
