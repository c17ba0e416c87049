"""Which emulated host: what was asked for, its key, its state directory, its QEMU command line."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import ConfigError
from pyvmm.lab import environment, image, inside
from pyvmm.lab.errors import LabError

QEMU = "qemu-system-x86_64"
ARCHITECTURES = ("x86_64",)
DEFAULT_CPUS = 2
DEFAULT_MEMORY = 4 << 30
MINIMUM_MEMORY = 256 << 20
#: QEMU's own limit for a q35 machine without an IOMMU.
MAXIMUM_CPUS = 255

# norandmaps halves the time of every program: QEMU keeps translated code by its address.
# The rest spares the boot what an emulated machine does slowly.
# A periodic tick on every CPU: QEMU's SVM code clears an interrupt's pending flag without its lock and
# so loses a wake-up now and then; a halted CPU with a one-shot timer would then sleep for ever.
_COMMAND_LINE = (
    "nohz=off highres=off console=ttyS0 quiet mitigations=off norandmaps panic=-1 "
    "nokaslr tsc=reliable no_timer_check cryptomgr.notests audit=0"
)
_SOCKET_PATH_MAX = 107  # sizeof(sockaddr_un.sun_path) - 1


@dataclass(frozen=True, slots=True)
class Machine:
    """An emulated host: its *memory* in bytes, *cpus*, directories it may write (*writable*).

    *shared*, *version*: what the machine depends on beyond the request (see ``environment``).
    *name* sets a machine of one's own apart.
    """

    memory: int = DEFAULT_MEMORY
    cpus: int = DEFAULT_CPUS
    writable: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    version: str = ""
    name: str = ""

    @property
    def key(self) -> str:
        """The same for the same request: the name of the machine's directory."""
        return f"{self.family}-{_hash(self.version, _COMMAND_LINE)}"

    @property
    def family(self) -> str:
        """The part of the key that stays when the machine's software or the shared places change."""
        request = (str(self.memory), str(self.cpus), *self.writable, "", *self.shared)
        return f"{self.name or 'x86_64'}-{_hash(*request)}"

    @property
    def directory(self) -> Path:
        """Where the machine's sockets and logs are, while there is one."""
        return state_directory() / self.key

    def describe(self) -> str:
        """One phrase for a person."""
        writable = f", writes to {', '.join(self.writable)}" if self.writable else ""
        return f"{self.cpus} CPUs, {self.memory >> 20} MiB{writable}"


def wanted(
    arch: str = "x86_64",
    memory: int | None = None,
    cpus: int | None = None,
    writable: tuple[str, ...] = (),
    name: str = "",
) -> Machine:
    """The machine for a request, with defaults filled in. Raises ConfigError and LabError."""
    if arch not in ARCHITECTURES:
        raise ConfigError(f"there is no lab for {arch!r}; it must be one of {', '.join(ARCHITECTURES)}")
    if memory is None:
        memory = min(
            DEFAULT_MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 >> 20 << 20
        )
    if memory < MINIMUM_MEMORY or memory % (1 << 20):
        raise ConfigError(
            f"the lab's memory must be whole MiB, {MINIMUM_MEMORY >> 20}M or more; it is {memory} bytes"
        )
    cpus = DEFAULT_CPUS if cpus is None else cpus
    if not 1 <= cpus <= MAXIMUM_CPUS:
        raise ConfigError(f"the lab can have 1 to {MAXIMUM_CPUS} CPUs, not {cpus}")
    for path in writable:
        if not os.path.isdir(path) or "," in path:
            raise ConfigError(
                f"{path} cannot be written from the lab; give a directory that exists, without a comma"
            )
    shared = environment.places(os.getcwd())
    version = f"{image.digest()} {environment.fingerprint(shared)}"
    return Machine(memory, cpus, tuple(os.path.realpath(path) for path in writable), shared, version, name)


def state_directory() -> Path:
    """The directory of all machines of this user, made if need be. Raises LabError."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.path.isdir(base):
        path = Path(base, "pyvmm-lab")
    else:
        path = Path(tempfile.gettempdir(), f"pyvmm-lab-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise LabError(
            f"cannot make {path}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LabError(f"{path} is not a directory of this user alone; remove it, or set XDG_RUNTIME_DIR")
    if len(os.fsencode(path)) + 40 > _SOCKET_PATH_MAX:
        raise LabError(f"{path} is too long for the sockets in it; set XDG_RUNTIME_DIR to a shorter one")
    return path


def find_qemu() -> str:
    """The path of QEMU. Raises LabError with the package to install."""
    path = shutil.which(QEMU)
    if path is None:
        raise LabError(
            f"the lab needs {QEMU} and it is not installed; on Debian: apt install qemu-system-x86"
        )
    return path


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


def log_path(machine: Machine) -> Path:
    """What the keeper, QEMU and the emulated host's kernel said."""
    return state_directory() / f"{machine.key}.log"


def command(machine: Machine, booted: image.Image, directory: Path) -> list[str]:
    """QEMU's command line; its sockets are in *directory*."""
    root = "local,path=/,security_model=none,readonly=on,multidevs=remap"
    line = [
        *(find_qemu(), "-name", "pyvmm-lab", "-M", "q35,smm=off,vmport=off,usb=off"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(machine.cpus)),
        *(
            "-m",
            f"{machine.memory >> 20}M",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ),
        *("-kernel", str(booted.kernel), "-initrd", str(booted.initrd), "-append", _COMMAND_LINE),
        *("-chardev", f"file,id=console,path={log_path(machine)},append=on", "-serial", "chardev:console"),
        *("-device", f"virtio-serial-pci,max_ports={inside.CHANNELS + 1}"),
        *("-fsdev", f"{root},id=root", "-device", "virtio-9p-pci,fsdev=root,mount_tag=base"),
    ]
    for n in range(inside.CHANNELS):
        line += ["-chardev", f"socket,id=c{n},path={channel_path(directory, n)},server=on,wait=off"]
        line += ["-device", f"virtserialport,chardev=c{n},name={inside.PORT}{n}"]
        line += ["-device", f"virtio-9p-pci,fsdev=root,mount_tag=fresh{n}"]
    for n, path in enumerate(machine.writable):
        line += ["-fsdev", f"local,path={path},security_model=none,multidevs=remap,id=rw{n}"]
        line += ["-device", f"virtio-9p-pci,fsdev=rw{n},mount_tag=rw{n}"]
    return line


def channel_path(directory: Path, number: int) -> Path:
    """The socket of channel *number*."""
    return directory / f"c{number}"


def control_path(directory: Path) -> Path:
    """The socket of the process that keeps the machine."""
    return directory / "control"


def view(number: int) -> str:
    """The root of the commands on channel *number*, inside."""
    return f"/view/{number}"


def renew_command(machine: Machine, number: int) -> list[str]:
    """The command inside that makes the view of channel *number* anew."""
    words = ["sh", "/etc/pyvmm/view", str(number), *machine.shared]
    for n, path in enumerate(machine.writable):
        words += ["rw", f"rw{n}", path]
    return words
