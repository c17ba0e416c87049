"""A virtual processor: running it, and what every architecture's vCPU has."""

from __future__ import annotations

from ctypes import addressof, c_int, c_ulong, create_string_buffer, get_errno
from mmap import mmap

from pyvmm.host.libc import bare_ioctl
from pyvmm.pykvm import ioctls
from pyvmm.pykvm.vcpu_arm64 import Arm64Vcpu
from pyvmm.pykvm.vcpu_x86 import X86Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.pykvm.abi_host import kvm_guest_debug, kvm_vcpu_events
    from pyvmm.pykvm.abi_run import kvm_run
    from pyvmm.pykvm.abi_vcpu import kvm_translation

_IMMEDIATE_EXIT8 = 1


class Vcpu(X86Vcpu, Arm64Vcpu):
    """A vCPU, made by ``Vm.create_vcpu``.

    ``run8``, ``run16``, ``run32`` and ``run64`` are the run mapping in words of so many bits: the
    ``kvm_run`` structure, then the port I/O page, then the ring of coalesced writes. ``run_raw()``
    is KVM_RUN: it returns 0, or -1 with the reason in ``last_errno()``, and lets other threads run
    meanwhile. Its arguments are converted here, once: that saves a tenth of the cost of an exit.

    All other methods raise KvmError when KVM refuses. One thread at a time may use a vCPU.

    :param run_size: bytes of the run mapping, from ``Kvm.vcpu_mmap_size``
    """

    __slots__ = ("_map", "_run", "run8", "run16", "run32", "run64", "run_raw")

    #: errno of the thread's last request; of use after run_raw() returned -1.
    last_errno = staticmethod(get_errno)

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        try:
            self._map = mmap(fd, run_size)
        except BaseException:
            self.close()
            raise
        self._run: kvm_run | None = None
        self.run8 = memoryview(self._map)
        self.run16 = self.run8.cast("H")
        self.run32 = self.run8.cast("I")
        self.run64 = self.run8.cast("Q")
        self.run_raw: Callable[[], int] = _run_call(fd)

    def close(self) -> None:
        """Unmap the run page and close the descriptor; a second call does nothing.

        The vCPU must not be running. The views can no longer be used.
        """
        if self.fd >= 0 and hasattr(self, "run_raw"):
            self.run_raw = _run_call(-1)
            self._run = None
            for view in (self.run64, self.run32, self.run16, self.run8):
                view.release()
            try:
                self._map.close()
            except BufferError:
                pass  # a slice or the structure is in use: the mapping is removed with the last of them
        super().close()

    @property
    def run(self) -> kvm_run:
        """The run page as a structure: slower than the views."""
        if self._run is None:
            from pyvmm.pykvm.abi_run import kvm_run

            self._run = kvm_run.from_buffer(self._map)
        return self._run

    @property
    def immediate_exit(self) -> int:
        """When 1, KVM_RUN returns at once with EINTR; any thread may set it."""
        return self.run8[_IMMEDIATE_EXIT8]

    @immediate_exit.setter
    def immediate_exit(self, value: int) -> None:
        self.run8[_IMMEDIATE_EXIT8] = value

    def set_signal_mask(self, signals: int | None) -> None:
        """Block *signals* in the thread while the guest runs: bit n - 1 for signal n.

        None: those that the thread blocks anyway.
        """
        if signals is None:
            self.ioctl(ioctls.KVM_SET_SIGNAL_MASK)
            return
        data = (8).to_bytes(4, "little") + signals.to_bytes(8, "little")
        self.ioctl(ioctls.KVM_SET_SIGNAL_MASK, create_string_buffer(data, len(data)))

    def get_mp_state(self) -> int:
        """KVM_MP_STATE_RUNNABLE, _HALTED and so on."""
        from pyvmm.pykvm.abi_vcpu import kvm_mp_state

        return int(self.get(ioctls.KVM_GET_MP_STATE, kvm_mp_state).mp_state)

    def set_mp_state(self, state: int) -> None:
        """Put the vCPU into *state*, a constant as get_mp_state returns."""
        from pyvmm.pykvm.abi_vcpu import kvm_mp_state

        self.put(ioctls.KVM_SET_MP_STATE, kvm_mp_state(state))

    def get_vcpu_events(self) -> kvm_vcpu_events:
        """Interrupts and exceptions pending or being delivered."""
        from pyvmm.pykvm.abi_host import kvm_vcpu_events

        return self.get(ioctls.KVM_GET_VCPU_EVENTS, kvm_vcpu_events)

    def set_vcpu_events(self, events: kvm_vcpu_events) -> None:
        """Make interrupts and exceptions pending; ``flags`` says which fields count (api.rst 4.32)."""
        self.put(ioctls.KVM_SET_VCPU_EVENTS, events)

    def set_guest_debug(self, debug: kvm_guest_debug) -> None:
        """Single step and breakpoints: ``control`` is of KVM_GUESTDBG_* flags, 0 for none."""
        from pyvmm.pykvm.abi_host import KVM_SET_GUEST_DEBUG

        self.put(KVM_SET_GUEST_DEBUG, debug)

    def translate(self, linear_address: int) -> kvm_translation:
        """Where the guest's page tables lead *linear_address*: ``valid`` and ``physical_address``."""
        from pyvmm.pykvm.abi_vcpu import kvm_translation

        translation = kvm_translation(linear_address=linear_address)
        self.put(ioctls.KVM_TRANSLATE, translation)
        return translation

    def get_one_reg(self, register: int) -> int:
        """The value of the register whose KVM identifier is *register*, which says its size too."""
        from pyvmm.pykvm.abi_vcpu import kvm_one_reg

        buffer = create_string_buffer(register_size(register))
        self.put(ioctls.KVM_GET_ONE_REG, kvm_one_reg(register, addressof(buffer)))
        return int.from_bytes(buffer.raw, "little")

    def set_one_reg(self, register: int, value: int) -> None:
        """Set the register whose KVM identifier is *register* to *value*, which must fit into it.

        Raises OverflowError, before KVM is asked, for a value that does not.
        """
        from pyvmm.pykvm.abi_vcpu import kvm_one_reg

        size = register_size(register)
        buffer = create_string_buffer(value.to_bytes(size, "little"), size)
        self.put(ioctls.KVM_SET_ONE_REG, kvm_one_reg(register, addressof(buffer)))

    def get_reg_list(self) -> list[int]:
        """The identifiers get_one_reg takes."""
        from errno import E2BIG

        from pyvmm.pykvm.errors import KvmError

        room = 1024
        while True:
            buffer = create_string_buffer(8 * (1 + room))
            words = memoryview(buffer).cast("B").cast("Q")
            words[0] = room
            try:
                self.ioctl(ioctls.KVM_GET_REG_LIST, buffer)
            except KvmError as error:
                if error.errno != E2BIG:
                    raise
                room = words[0]  # KVM says how many there are
                continue
            return words[1 : 1 + words[0]].tolist()


def register_size(register: int) -> int:
    """Bytes of the register whose KVM identifier is *register* (KVM_REG_SIZE_MASK)."""
    return 1 << (register >> 52 & 15)


def _run_call(fd: int) -> Callable[[], int]:
    """KVM_RUN on *fd* with its arguments converted once."""
    call = bare_ioctl
    arguments = (c_int.from_param(fd), c_ulong.from_param(ioctls.KVM_RUN), c_ulong.from_param(0))

    def run_raw() -> int:
        return call(*arguments)  # type: ignore[no-any-return]

    return run_raw
