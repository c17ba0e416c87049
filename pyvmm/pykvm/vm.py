"""A virtual machine: its memory, its interrupts, its vCPUs."""

from __future__ import annotations

from ctypes import addressof, c_int, c_uint64, c_ulong, c_void_p, create_string_buffer, get_errno

from pyvmm.host.libc import brief_ioctl
from pyvmm.pykvm import ioctls, ioctls_x86
from pyvmm.pykvm.abi import (
    kvm_coalesced_mmio_zone,
    kvm_irq_level,
    kvm_pit_config,
    kvm_userspace_memory_region,
)
from pyvmm.pykvm.attributes import VmOrVcpu
from pyvmm.pykvm.caps import capability
from pyvmm.pykvm.const import (
    KVM_IOEVENTFD_FLAG_DATAMATCH,
    KVM_IOEVENTFD_FLAG_DEASSIGN,
    KVM_IOEVENTFD_FLAG_PIO,
    KVM_IRQFD_FLAG_DEASSIGN,
    KVM_IRQFD_FLAG_RESAMPLE,
    KVM_MSI_VALID_DEVID,
    KVM_PIT_SPEAKER_DUMMY,
)
from pyvmm.pykvm.errors import failed
from pyvmm.pykvm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm.pykvm.abi_arm64 import kvm_vcpu_init
    from pyvmm.pykvm.abi_irq import kvm_irq_routing_entry
    from pyvmm.pykvm.abi_x86_chips import kvm_clock_data, kvm_irqchip, kvm_pit_state2
    from pyvmm.pykvm.device import KvmDevice


class Vm(VmOrVcpu):
    """A VM, made by ``Kvm.create_vm``. Closing it closes its vCPUs as well.

    All methods raise KvmError when KVM refuses.

    :param run_size: bytes of a vCPU's run mapping, from ``Kvm.vcpu_mmap_size``
    """

    __slots__ = ("_pulse_fd", "_run_size", "_vcpus")

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self._pulse_fd = c_int(fd)
        self._vcpus: list[Vcpu] = []

    def close(self) -> None:
        """Close the vCPUs and the VM; a second call does nothing."""
        while self._vcpus:
            self._vcpus.pop().close()
        self._pulse_fd.value = -1  # another file may get the number
        super().close()

    def check_extension(self, name: str | int) -> int:
        """As ``Kvm.check_extension``, for this VM."""
        return self.ioctl(ioctls.KVM_CHECK_EXTENSION, capability(name))

    def create_vcpu(self, index: int) -> Vcpu:
        """The vCPU *index* (its APIC identifier on x86-64), new."""
        vcpu = Vcpu(self.ioctl(ioctls.KVM_CREATE_VCPU, index), self._run_size)
        self._vcpus.append(vcpu)
        return vcpu

    # Memory

    def set_user_memory_region(
        self, slot: int, gpa: int, size: int, host_address: int, flags: int = 0
    ) -> None:
        """Let guest-physical *gpa* be the *size* bytes at *host_address*; size 0 removes the slot.

        All three are multiples of the page size; the memory must stay mapped while the slot exists.

        :param flags: KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY (a write then exits as MMIO)
        """
        region = kvm_userspace_memory_region(slot, flags, gpa, size, host_address)
        self.put(ioctls.KVM_SET_USER_MEMORY_REGION, region)

    def get_dirty_log(self, slot: int, pages: int) -> bytes:
        """Which of the slot's *pages* were written since the last call: bit n of byte n // 8.

        The length is a multiple of 8. *pages* must be the slot's own number: KVM writes as much.
        """
        from pyvmm.pykvm.abi_memory import kvm_dirty_log

        bitmap = create_string_buffer((pages + 63) // 64 * 8)
        log = kvm_dirty_log(slot=slot)
        log.dirty_bitmap = addressof(bitmap)
        self.put(ioctls.KVM_GET_DIRTY_LOG, log)
        return bitmap.raw

    def clear_dirty_log(self, slot: int, first_page: int, num_pages: int, bitmap: bytes) -> None:
        """Clear the log of the pages set in *bitmap*, whose bit 0 is page *first_page* (a multiple of 64).

        *num_pages* is how many pages the bitmap covers: a multiple of 64, unless it reaches the slot's end.

        Needs the capability MANUAL_DIRTY_LOG_PROTECT2 turned on.
        """
        from pyvmm.pykvm.abi_memory import kvm_clear_dirty_log

        buffer = create_string_buffer(bitmap, (num_pages + 63) // 64 * 8)
        log = kvm_clear_dirty_log(slot=slot, num_pages=num_pages, first_page=first_page)
        log.dirty_bitmap = addressof(buffer)
        self.put(ioctls.KVM_CLEAR_DIRTY_LOG, log)

    def register_coalesced_mmio(self, address: int, size: int, pio: bool = False) -> None:
        """Queue the guest's writes to *size* bytes from *address* (a port with *pio*) instead of exiting.

        The ring they wait in (``kvm_coalesced_mmio_ring``) lies in every vCPU's run mapping, at the page
        check_extension("COALESCED_MMIO") names.
        """
        self.put(ioctls.KVM_REGISTER_COALESCED_MMIO, _zone(address, size, pio))

    def unregister_coalesced_mmio(self, address: int, size: int, pio: bool = False) -> None:
        """Undo register_coalesced_mmio of *size* bytes from *address* (a port with *pio*)."""
        self.put(ioctls.KVM_UNREGISTER_COALESCED_MMIO, _zone(address, size, pio))

    # Interrupts

    def create_irqchip(self) -> None:
        """Put the interrupt controllers into the kernel (x86-64: two PICs, I/O APIC, local APICs)."""
        self.ioctl(ioctls.KVM_CREATE_IRQCHIP)

    def irq_line(self, gsi: int, level: int) -> None:
        """Drive the interrupt input *gsi* (arm64: the encoded number of api.rst 4.25) to *level*, 0 or 1."""
        line = kvm_irq_level()
        line.irq = gsi
        line.level = level
        self.put(ioctls.KVM_IRQ_LINE, line)

    def irq_pulse(self, gsi: int) -> Callable[[], None]:
        """A function that drives the interrupt input *gsi* to 1 and to 0 again, its arguments converted once.

        One thread at a time calls it. It raises KvmError when KVM refuses, and once the VM is closed.
        """
        levels = [kvm_irq_level(level=level) for level in (1, 0)]
        for line in levels:
            line.irq = gsi
        up, down = (
            (self._pulse_fd, c_ulong(ioctls.KVM_IRQ_LINE), c_void_p(addressof(line))) for line in levels
        )
        call = brief_ioctl

        def pulse(_: object = levels) -> None:  # which must live as long as it is called
            if call(*up) < 0 or call(*down) < 0:
                raise failed(ioctls.KVM_IRQ_LINE, get_errno())

        return pulse

    def set_gsi_routing(self, entries: Sequence[kvm_irq_routing_entry]) -> None:
        """Replace the routing table; ``pyvmm.pykvm.routing`` makes entries."""
        from pyvmm.pykvm.routing import pack

        self.ioctl(ioctls.KVM_SET_GSI_ROUTING, pack(entries))

    def signal_msi(self, address: int, data: int, devid: int | None = None) -> bool:
        """Deliver an MSI: *data* (32 bits) written to *address*. False when the guest blocks it.

        :param devid: the device, for an arm64 ITS
        """
        from pyvmm.pykvm.abi_irq import kvm_msi

        msi = kvm_msi(address_lo=address & 0xFFFF_FFFF, address_hi=address >> 32, data=data)
        if devid is not None:
            msi.flags, msi.devid = KVM_MSI_VALID_DEVID, devid
        return self.put(ioctls.KVM_SIGNAL_MSI, msi) > 0

    def irqfd(self, eventfd: int, gsi: int, resample: int | None = None, deassign: bool = False) -> None:
        """Let a signal of *eventfd* pulse interrupt *gsi*.

        :param resample: an eventfd KVM signals at end of interrupt: the interrupt is then level-triggered
        """
        from pyvmm.pykvm.abi_irq import kvm_irqfd

        request = kvm_irqfd(fd=eventfd, gsi=gsi)
        if resample is not None:
            request.flags, request.resamplefd = KVM_IRQFD_FLAG_RESAMPLE, resample
        if deassign:
            request.flags |= KVM_IRQFD_FLAG_DEASSIGN
        self.put(ioctls.KVM_IRQFD, request)

    def ioeventfd(
        self,
        eventfd: int,
        address: int,
        length: int,
        datamatch: int | None = None,
        pio: bool = False,
        deassign: bool = False,
    ) -> None:
        """Let a guest's write to *address* (a port with *pio*) signal *eventfd* instead of exiting.

        :param length: 1, 2, 4 or 8 bytes, or 0 for a write of any length
        :param datamatch: only a write of this value
        """
        from pyvmm.pykvm.abi_irq import kvm_ioeventfd

        request = kvm_ioeventfd(addr=address, len=length, fd=eventfd)
        if datamatch is not None:
            request.datamatch = datamatch
            request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
        if pio:
            request.flags |= KVM_IOEVENTFD_FLAG_PIO
        if deassign:
            request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN
        self.put(ioctls.KVM_IOEVENTFD, request)

    # x86-64

    def set_tss_addr(self, address: int) -> None:
        """Let KVM use three pages from guest-physical *address*, below 4 GiB, where the CPU needs them."""
        self.ioctl(ioctls_x86.KVM_SET_TSS_ADDR, address)

    def set_identity_map_addr(self, address: int) -> None:
        """Let KVM use the page at guest-physical *address*, on processors that need it; before any vCPU."""
        self.put(ioctls_x86.KVM_SET_IDENTITY_MAP_ADDR, c_uint64(address))

    def create_pit2(self, speaker_dummy: bool = False) -> None:
        """Put the timer (8254) into the kernel; after create_irqchip.

        :param speaker_dummy: port 0x61 as well, which kernels calibrate their clocks by
        """
        self.put(ioctls_x86.KVM_CREATE_PIT2, kvm_pit_config(KVM_PIT_SPEAKER_DUMMY if speaker_dummy else 0))

    def get_pit2(self) -> kvm_pit_state2:
        """The timer's state."""
        from pyvmm.pykvm.abi_x86_chips import kvm_pit_state2

        return self.get(ioctls_x86.KVM_GET_PIT2, kvm_pit_state2)

    def set_pit2(self, state: kvm_pit_state2) -> None:
        """Set the timer's state, as get_pit2 returns it."""
        self.put(ioctls_x86.KVM_SET_PIT2, state)

    def get_irqchip(self, chip_id: int) -> kvm_irqchip:
        """The state of controller *chip_id*: KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC."""
        from pyvmm.pykvm.abi_x86_chips import kvm_irqchip

        state = kvm_irqchip(chip_id=chip_id)
        self.put(ioctls_x86.KVM_GET_IRQCHIP, state)
        return state

    def set_irqchip(self, state: kvm_irqchip) -> None:
        """Set the state of one controller, the one that *state* names; as get_irqchip returns it."""
        self.put(ioctls_x86.KVM_SET_IRQCHIP, state)

    def get_clock(self) -> kvm_clock_data:
        """The guest's paravirtual clock, in nanoseconds."""
        from pyvmm.pykvm.abi_x86_chips import kvm_clock_data

        return self.get(ioctls_x86.KVM_GET_CLOCK, kvm_clock_data)

    def set_clock(self, data: kvm_clock_data) -> None:
        """Set the guest's paravirtual clock."""
        self.put(ioctls_x86.KVM_SET_CLOCK, data)

    # Devices in the kernel, arm64

    def create_device(self, kind: int) -> KvmDevice:
        """An in-kernel device of type *kind*, such as KVM_DEV_TYPE_ARM_VGIC_V3."""
        from pyvmm.pykvm.abi_device import kvm_create_device
        from pyvmm.pykvm.device import KvmDevice

        request = kvm_create_device(type=kind)
        self.put(ioctls.KVM_CREATE_DEVICE, request)
        return KvmDevice(request.fd)

    def arm_preferred_target(self) -> kvm_vcpu_init:
        """What to hand to ``Vcpu.arm_vcpu_init`` on this host, with no feature asked for."""
        from pyvmm.pykvm.abi_arm64 import kvm_vcpu_init
        from pyvmm.pykvm.ioctls_arm64 import KVM_ARM_PREFERRED_TARGET

        return self.get(KVM_ARM_PREFERRED_TARGET, kvm_vcpu_init)


def _zone(address: int, size: int, pio: bool) -> kvm_coalesced_mmio_zone:
    zone = kvm_coalesced_mmio_zone(address, size)
    zone.pio = pio
    return zone
