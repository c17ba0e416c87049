"""Which emulated host: what was asked for, its key, its state directory, its QEMU command line."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import ConfigError
from pyvmm.host.private import runtime_directory
from pyvmm.lab import environment, exposure, image, inside, system
from pyvmm.lab.architecture import Architecture, find
from pyvmm.lab.errors import LabError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_MEMORY = 4 << 30
MINIMUM_MEMORY = 256 << 20
_SOCKET_PATH_MAX = 107  # sizeof(sockaddr_un.sun_path) - 1
#: qemu(1): whoever takes QEMU over from inside has no set*uid, no fork, no exec, no priorities.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class LabMachine:
    """An emulated host: its *memory* in bytes, *cpus*, directories it may write (*writable*).

    *arch* names its kind. *shared*, *version*: what the machine depends on beyond the request (see
    ``environment``). *name* distinguishes a machine of one command. *python*: the virtual environment whose
    interpreter is replaced there; empty for none. *exposed*: hidden paths that its commands see (see
    ``exposure``).
    """

    memory: int = DEFAULT_MEMORY
    cpus: int = 1
    writable: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    version: str = ""
    name: str = ""
    arch: str = "x86_64"
    python: str = ""
    exposed: tuple[str, ...] = ()

    @property
    def architecture(self) -> Architecture:
        """Its kind."""
        return find(self.arch)

    @property
    def key(self) -> str:
        """The same for the same request: the name of the machine's directory."""
        kind = self.architecture
        return f"{self.family}-{_hash(self.version, kind.command_line, *kind.options)}"

    @property
    def family(self) -> str:
        """The part of the key that stays when the machine's software or the shared places change."""
        request = (str(self.memory), str(self.cpus), *self.writable, self.python, *self.shared, *self.exposed)
        return f"{self.name or self.arch}-{_hash(*request)}"

    @property
    def directory(self) -> Path:
        """Where the machine's sockets and logs are, while there is one. Raises LabError."""
        return state_directory() / self.key

    def describe(self) -> str:
        """A short description for messages."""
        writable = f", writes to {', '.join(self.writable)}" if self.writable else ""
        return f"{self.cpus} CPUs, {self.memory >> 20} MiB{writable}"


def wanted(
    arch: str = "x86_64",
    memory: int | None = None,
    cpus: int | None = None,
    writable: tuple[str, ...] = (),
    name: str = "",
    exposed: tuple[str, ...] = (),
    words: Sequence[str] = (),
    directory: str | None = None,
) -> LabMachine:
    """The machine for a request, with defaults filled in; *memory* in bytes.

    :param exposed: paths that are not to be hidden
    :param words: the command, which sees the paths that it names
    :param directory: its working directory, by default this process's

    Raises ConfigError and LabError.
    """
    kind = find(arch)
    if memory is None:
        memory = min(
            DEFAULT_MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 >> 20 << 20
        )
    if memory < MINIMUM_MEMORY or memory % (1 << 20):
        raise ConfigError(
            f"the lab's memory must be whole MiB, {MINIMUM_MEMORY >> 20}M or more; it is {memory} bytes"
        )
    cpus = kind.cpus if cpus is None else cpus
    if not 1 <= cpus <= kind.maximum_cpus:
        raise ConfigError(f"the lab can have 1 to {kind.maximum_cpus} CPUs, not {cpus}")
    for path in writable:
        if not os.path.isdir(path) or "," in path:
            raise ConfigError(
                f"{path} cannot be written from the lab; give a directory that exists, without a comma"
            )
    for path in exposed:
        if not os.path.exists(path):
            raise ConfigError(f"{path} cannot be shown in the lab: it does not exist")
    shared = environment.places(directory or os.getcwd(), foreign=not kind.native_programs)
    programs = "" if kind.native_programs else system.plan()
    version = f"{image.digest(kind)} {programs} {environment.fingerprint(shared)} {exposure.digest()}"
    writes = tuple(os.path.realpath(path) for path in writable)
    seen = exposure.needed(words, directory, (*exposed, *writes))
    # By its real path: a link would point elsewhere inside the host's view.
    own = not kind.native_programs and sys.prefix != sys.base_prefix
    python = os.path.realpath(sys.prefix) if own else ""
    return LabMachine(memory, cpus, writes, shared, version, name, arch, python, seen)


def state_directory() -> Path:
    """The directory of all machines of this user, made if it does not exist. Raises LabError."""
    try:
        path = Path(runtime_directory("pyvmm-lab"))
    except OSError as error:
        raise LabError(
            f"{error.filename}: {error.strerror}; remove it, or set XDG_RUNTIME_DIR to a directory of yours"
        ) from error
    if len(os.fsencode(path)) + 40 > _SOCKET_PATH_MAX:
        raise LabError(f"{path} is too long for the sockets in it; set XDG_RUNTIME_DIR to a shorter one")
    return path


def find_qemu(arch: str = "x86_64") -> str:
    """The path of QEMU. Raises LabError with the package to install."""
    kind = find(arch)
    path = shutil.which(kind.qemu)
    if path is None:
        raise LabError(
            f"the lab needs {kind.qemu} and it is not installed; on Debian: apt install {kind.package}"
        )
    return path


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


def log_path(machine: LabMachine) -> Path:
    """The log of the keeper, of QEMU and of the emulated host's kernel (``log``). Raises LabError."""
    return state_directory() / f"{machine.key}.log"


def command(machine: LabMachine, booted: image.Image, directory: Path, tree: str = "/") -> list[str]:
    """QEMU's command line. Raises LabError when QEMU is not installed.

    :param directory: where it makes its sockets
    :param tree: what the host has as this machine's file system
    """
    root = f"local,path={tree},security_model=none,readonly=on,multidevs=remap"
    line = [
        *(find_qemu(machine.arch), "-name", "pyvmm-lab", *machine.architecture.options),
        *("-accel", "tcg,thread=multi", "-smp", str(machine.cpus)),
        *("-sandbox", _SANDBOX),
        *(
            "-m",
            f"{machine.memory >> 20}M",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ),
        *("-kernel", str(booted.kernel), "-initrd", str(booted.initrd), "-append"),
        machine.architecture.command_line,
        # Standard output is the log.
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-device", f"virtio-serial-pci,max_ports={inside.PORTS + 1}"),
        *("-fsdev", f"{root},id=root", "-device", "virtio-9p-pci,fsdev=root,mount_tag=base"),
    ]
    if booted.system is not None:
        programs = f"local,path={_in_option(booted.system)},security_model=none,readonly=on,multidevs=remap"
        line += ["-fsdev", f"{programs},id=system", "-device", "virtio-9p-pci,fsdev=system,mount_tag=system"]
    for n in range(inside.PORTS):
        line += [
            "-chardev",
            f"socket,id=c{n},path={_in_option(channel_path(directory, n))},server=on,wait=off",
        ]
        line += ["-device", f"virtserialport,chardev=c{n},name={inside.PORT}{n}"]
    for n in range(inside.CHANNELS):
        line += ["-device", f"virtio-9p-pci,fsdev=root,mount_tag=fresh{n}"]
    for n, path in enumerate(machine.writable):
        line += ["-fsdev", f"local,path={path},security_model=none,multidevs=remap,id=rw{n}"]
        line += ["-device", f"virtio-9p-pci,fsdev=rw{n},mount_tag=rw{n}"]
    return line


def _in_option(path: object) -> str:
    """*path* as a value among QEMU's options, where a comma is written twice."""
    return str(path).replace(",", ",,")


def channel_path(directory: Path, number: int) -> Path:
    """The socket of channel *number*."""
    return directory / f"c{number}"


def control_path(directory: Path) -> Path:
    """The socket of the process that keeps the machine."""
    return directory / "control"


def view(number: int) -> str:
    """The root of the commands on channel *number*, inside."""
    return f"/view/{number}"


def renew_command(machine: LabMachine, number: int) -> list[str]:
    """The command, inside the host, that replaces the view of channel *number*."""
    words = ["sh", "/etc/pyvmm/view", str(number)]
    if not machine.architecture.native_programs:
        for path in environment.own_directories():
            words += ["top", path]
    words += machine.shared
    if machine.python:
        words += ["python", machine.python]
    for n, path in enumerate(machine.writable):
        words += ["rw", f"rw{n}", path]
    return words
