"""Opening, asking, closing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.errors import StartError
from pyvmm.pykvm import Kvm, KvmError
from pyvmm.pykvm import kvm as kvm_module
from pyvmm.pykvm.const import KVM_DEV_TYPE_VFIO
from pyvmm.pykvm.device import KvmDevice
from tests.support.real_mode import HLT, RealMode, out

Guest = Callable[..., RealMode]
ROOT = Path(__file__).parents[2]

# KVM_DEV_VFIO_FILE and KVM_DEV_VFIO_FILE_ADD: a file descriptor, as 32 bits.
VFIO_FILE, VFIO_FILE_ADD = 1, 1


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_kvm_when_device_is_missing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"opening \S+/kvm failed with ENOENT .*modprobe") as caught:
        Kvm(str(tmp_path / "kvm"))

    assert caught.value.exit_code == 64


def test_kvm_when_permission_is_missing_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(kvm_module.os, "open", refuse)

    with pytest.raises(KvmError, match=r"/dev/kvm failed with EACCES .*usermod -aG kvm"):
        Kvm()


def test_kvm_when_path_is_another_device_says_so() -> None:
    files = open_files()

    with pytest.raises(KvmError, match=r"opening /dev/null failed with ENOTTY .*not KVM's device"):
        Kvm("/dev/null")

    assert open_files() == files


@pytest.mark.kvm
def test_kvm_when_interface_has_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm_module, "API_VERSION", 13)

    with pytest.raises(KvmError, match=r"speaks version 12 of its interface, not 13"):
        Kvm()


@pytest.mark.kvm
def test_check_extension_when_asked_by_either_name_or_number_answers_alike(kvm: Kvm) -> None:
    answer = kvm.check_extension("NR_MEMSLOTS")

    assert answer > 100
    assert answer == kvm.check_extension("KVM_CAP_NR_MEMSLOTS") == kvm.check_extension(10)


@pytest.mark.kvm
def test_check_extension_when_name_is_unknown_raises(kvm: Kvm) -> None:
    with pytest.raises(ValueError, match=r"no capability 'MEMSLOTS'"):
        kvm.check_extension("MEMSLOTS")


@pytest.mark.kvm
def test_create_vm_when_type_is_unknown_is_refused_with_advice(kvm: Kvm) -> None:
    with pytest.raises(KvmError, match=r"KVM_CREATE_VM failed with EINVAL .*machine type"):
        kvm.create_vm(0x7777)


@pytest.mark.kvm
def test_create_vcpu_when_index_is_taken_is_refused_with_advice(guest: Guest) -> None:
    machine = guest(HLT)

    with pytest.raises(KvmError, match=r"KVM_CREATE_VCPU failed with EEXIST .*of that index"):
        machine.vm.create_vcpu(0)


@pytest.mark.kvm
def test_close_when_vm_is_closed_closes_its_vcpus_and_comes_twice(kvm: Kvm) -> None:
    files = open_files()
    vm = kvm.create_vm()
    vcpus = [vm.create_vcpu(i) for i in range(3)]

    vm.close()
    vm.close()

    assert open_files() == files
    assert [vcpu.fd for vcpu in vcpus] == [-1, -1, -1]


@pytest.mark.kvm
def test_close_when_done_makes_every_use_an_error(guest: Guest) -> None:
    vcpu = guest(HLT).vcpu
    view = vcpu.run32

    vcpu.close()

    with pytest.raises(KvmError, match=r"KVM_GET_REGS failed with EBADF .*closed"):
        vcpu.get_regs()
    assert vcpu.run_raw() == -1
    with pytest.raises(ValueError, match=r"released"):
        view[2]


@pytest.mark.kvm
def test_close_when_structure_is_still_held_leaves_it_readable(guest: Guest) -> None:
    machine = guest(out(0x55, 1))
    machine.run()
    run = machine.vcpu.run

    machine.vcpu.close()

    assert run.io.port == 0x55


@pytest.mark.kvm
def test_close_when_200_vms_were_made_and_run_leaves_no_file_open(kvm: Kvm) -> None:
    files = open_files()

    for _ in range(200):
        machine = RealMode(kvm, out(0x55, 1), irqchip=True)
        machine.run()
        machine.close()

    assert open_files() == files


@pytest.fixture
def vfio(kvm: Kvm) -> Iterator[KvmDevice]:
    """KVM's VFIO device, which needs no hardware to be made."""
    with kvm.create_vm() as vm:
        try:
            device = vm.create_device(KVM_DEV_TYPE_VFIO)
        except KvmError as error:
            pytest.skip(f"this host's KVM has no VFIO device: {error}")
        with device:
            yield device


@pytest.mark.kvm
def test_has_device_attr_when_asked_tells_what_there_is(vfio: KvmDevice) -> None:
    assert vfio.has_device_attr(VFIO_FILE, VFIO_FILE_ADD)
    assert not vfio.has_device_attr(VFIO_FILE, 77)


@pytest.mark.kvm
@pytest.mark.parametrize(("path", "code"), [(None, errno.EBADF), (os.devnull, errno.EINVAL)])
def test_set_device_attr_when_kvm_refuses_the_data_says_why(
    vfio: KvmDevice, path: str | None, code: int
) -> None:
    fd = os.open(path, os.O_RDONLY) if path else -1

    with pytest.raises(KvmError, match=r"KVM_SET_DEVICE_ATTR failed") as caught:
        vfio.set_device_attr(VFIO_FILE, VFIO_FILE_ADD, fd.to_bytes(4, "little", signed=True))

    assert caught.value.errno == code
    if fd >= 0:
        os.close(fd)


@pytest.mark.kvm
def test_get_device_attr_when_set_fills_all_its_bytes(guest: Guest) -> None:
    tsc_control, tsc_offset = 0, 0
    vcpu = guest(HLT).vcpu
    vcpu.set_device_attr(tsc_control, tsc_offset, bytes(8))

    assert vcpu.get_device_attr(tsc_control, tsc_offset, 8, b"\xff" * 8) != b"\xff" * 8


@pytest.mark.kvm
def test_arm64_requests_when_host_is_x86_64_are_refused_by_name(kvm: Kvm) -> None:
    with kvm.create_vm() as vm, pytest.raises(KvmError, match=r"KVM_ARM_PREFERRED_TARGET failed with ENOTTY"):
        vm.arm_preferred_target()


def test_import_when_done_loads_only_what_a_run_needs() -> None:
    script = "import sys, ctypes, mmap; before = set(sys.modules); import pyvmm.pykvm, pyvmm.pykvm.kick\n"
    script += "print(*sorted(set(sys.modules) - before))"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"]

    loaded = set(subprocess.run(command, text=True, capture_output=True, check=True).stdout.split())

    assert {name for name in loaded if not name.startswith("pyvmm")} <= {"errno", "__future__"}
    assert not {name for name in loaded if "arm64" in name} - {"pyvmm.pykvm.vcpu_arm64"}
    rare = ("abi_run", "abi_irq", "abi_x86_state", "abi_x86_chips", "abi_memory", "advice", "stats")
    assert not loaded & {f"pyvmm.pykvm.{name}" for name in rare}
