"""The kinds of emulated hosts, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.errors import ConfigError

#: ``-cpu max`` with a pointer authentication that is cheap to emulate.
_ARM64_CPU = "max,pauth-impdef=on"

#: Without the CPUID bits that make programs copy by `rep movsb`, which QEMU emulates byte by byte.
_X86_64_CPU = "max,erms=off,fsrm=off"

# norandmaps halves the time of every program: QEMU caches translated code by its address.
# The other options skip parts of the boot that are slow under emulation.
_QUIET = "quiet mitigations=off norandmaps panic=-1 nokaslr cryptomgr.notests audit=0"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of emulated host.

    *name*: as on the command line; *debian*: Debian's name; *qemu*, its *package*, its *options*; *kernel*:
    the kernel's package; *kvm*: modules that make /dev/kvm; *helpers*: programs of ours that run beside the
    commands, as ``linux_program`` knows them; *command_line*: the kernel's; *virtualization*: the name of
    its processor's virtualization extension; *cpus*: how many it has by default.
    """

    name: str
    debian: str
    qemu: str
    package: str
    options: tuple[str, ...]
    kernel: str
    kvm: tuple[str, ...]
    helpers: tuple[str, ...]
    command_line: str
    virtualization: str
    cpus: int
    maximum_cpus: int

    @property
    def native_programs(self) -> bool:
        """Whether this machine's own programs run there."""
        from pyvmm.arch import native

        return self.debian == native.DEBIAN


ARCHITECTURES = {
    "x86_64": Architecture(
        "x86_64",
        "amd64",
        "qemu-system-x86_64",
        "qemu-system-x86",
        ("-M", "q35,smm=off,vmport=off,usb=off", "-cpu", _X86_64_CPU),
        # The cloud kernel has neither 9p nor kvm-amd.
        "linux-image-amd64",
        ("kvm-amd",),
        ("guest/tools/awake", "guest/tools/hold"),
        f"console=ttyS0 {_QUIET} tsc=reliable no_timer_check",
        "AMD-V",
        # QEMU runs each CPU in a thread of its own, and its emulation of SVM is not safe for threads: with
        # two CPUs, guests and the host itself crash within minutes of heavy use (docs/guide/lab.md).
        1,
        # QEMU's own limit for a q35 machine without an IOMMU.
        255,
    ),
    "arm64": Architecture(
        "arm64",
        "arm64",
        "qemu-system-aarch64",
        "qemu-system-arm",
        ("-M", "virt,virtualization=on,gic-version=3", "-cpu", _ARM64_CPU),
        "linux-image-arm64",
        (),
        (),
        f"console=ttyAMA0 {_QUIET}",
        "ARM EL2",
        # Two CPUs showed no fault there; one was not tested for long.
        2,
        64,
    ),
    # As servers of 2020: VHE and GICv3, neither SVE nor pointer authentication, which costs a quarter less
    # to emulate.
    "arm64-n1": Architecture(
        "arm64-n1",
        "arm64",
        "qemu-system-aarch64",
        "qemu-system-arm",
        ("-M", "virt,virtualization=on,gic-version=3", "-cpu", "neoverse-n1"),
        "linux-image-arm64",
        (),
        (),
        f"console=ttyAMA0 {_QUIET}",
        "ARM EL2 of a Neoverse N1",
        2,
        64,
    ),
    # As a Raspberry Pi 4: no VHE, GICv2.
    "arm64-gicv2": Architecture(
        "arm64-gicv2",
        "arm64",
        "qemu-system-aarch64",
        "qemu-system-arm",
        ("-M", "virt,virtualization=on,gic-version=2", "-cpu", "cortex-a72"),
        "linux-image-arm64",
        (),
        (),
        f"console=ttyAMA0 {_QUIET}",
        "ARM EL2 with GICv2",
        2,
        8,
    ),
}


def find(name: str) -> Architecture:
    """The architecture of that name. Raises ConfigError."""
    if name not in ARCHITECTURES:
        raise ConfigError(f"there is no lab for {name!r}; it must be one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
