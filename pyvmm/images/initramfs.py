"""The guest's first file system: our init, busybox, kernel modules, given files."""

from __future__ import annotations

import os
from pathlib import Path

from pyvmm.errors import StartError
from pyvmm.host.opened import keep, kept, open_file
from pyvmm.images import cpio, debian
from pyvmm.images.cpio import CpioEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pyvmm.images.modules import Module

#: The path of init in ``exec_overlay``, for the kernel's ``rdinit=``.
OVERLAY_INIT = "/.pyvmm/init"

# What busybox's udhcpc runs when it has obtained, renewed or lost a lease.
_LEASE = b"""\
#!/bin/sh
case $1 in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    for one in $router; do
        ip route replace "$one" dev "$interface" scope link
        ip route replace default via "$one" dev "$interface"
        break
    done
    : >/etc/resolv.conf
    [ -z "$domain" ] || echo "search $domain" >>/etc/resolv.conf
    for one in $dns; do
        echo "nameserver $one" >>/etc/resolv.conf
    done
    ;;
esac
"""

#: Loads what ``on_demand`` lists: the kernel calls it, with options and an alias.
MODPROBE = """\
#!/bin/sh
for alias; do
    list=/etc/pyvmm/lazy/$alias
    [ -e "$list" ] || continue
    while read -r module; do
        [ -d "/sys/module/$(basename "$module" .ko | tr - _)" ] || insmod "$module"
    done <"$list"
    exit 0
done
exit 1
"""

_MACHINES = {name: machine for machine, name in debian.ARCHITECTURES.items()}


class InitramfsError(StartError):
    """An initramfs cannot be made, because a part is missing."""


_INIT = "guest/init/pyvmm-init"


def exec_overlay(architecture: str = "amd64") -> bytes:
    """An archive that is appended to a user's own initrd, booted with ``rdinit=/.pyvmm/init``.

    Raises InitramfsError when the architecture has no init.
    """
    return cpio.archive([cpio.file(OVERLAY_INIT[1:], init_program(architecture), 0o755)])


def build(
    init: bytes,
    busybox: bytes | None,
    *,
    modules: Sequence[Module] = (),
    files: Sequence[CpioEntry] = (),
) -> bytes:
    """The archive of an initramfs.

    *modules* are loaded in the order given; *files* replace those of the same path. Without *busybox* there
    is neither a shell nor any other program. Raises InitramfsError when *busybox* is something else.
    """
    programs = [] if busybox is None else _busybox(busybox)
    entries = [
        cpio.folder("dev"),
        cpio.character_device("dev/console", 5, 1),
        *(cpio.folder(name) for name in ("bin", "etc", "proc", "run", "sys", "usr")),
        cpio.folder("root", 0o700),
        cpio.folder("tmp", 0o1777),
        *(cpio.symlink(name, "bin") for name in ("sbin",)),
        *(cpio.symlink(f"usr/{name}", "../bin") for name in ("bin", "sbin")),
        cpio.file("init", init, 0o755),
        *programs,
        cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        cpio.file("etc/group", b"root:x:0:\n"),
        cpio.file("etc/pyvmm/modules", paths_of(modules)),
        *(cpio.file(module.path, module.data) for module in modules),
    ]
    return cpio.archive([*entries, *files])


def _busybox(program: bytes) -> list[CpioEntry]:
    """busybox, a link for each of its commands, and the script of its DHCP client."""
    return [
        cpio.file("bin/busybox", program, 0o755),
        *(cpio.symlink(f"bin/{name}", "busybox") for name in applets(program)),
        cpio.folder("etc/udhcpc"),
        cpio.file("etc/udhcpc/default.script", _LEASE, 0o755),
    ]


def on_demand(wanted: Mapping[str, Sequence[Module]], path: str) -> list[CpioEntry]:
    """Entries of modules that the kernel requests by an alias, and of the program that it runs to load them.

    *wanted* has an alias' modules in load order; *path* is the program's, as /proc/sys/kernel/modprobe has
    it. Aliases with nothing to load are left out.
    """
    wanted = {alias: order for alias, order in wanted.items() if order}
    if not wanted:
        return []
    modules = {module.path: module for order in wanted.values() for module in order}
    return [
        *(cpio.file(f"etc/pyvmm/lazy/{alias}", paths_of(order)) for alias, order in wanted.items()),
        *(cpio.file(module.path, module.data) for module in modules.values()),
        cpio.file(path, MODPROBE.encode(), 0o755),
    ]


def paths_of(modules: Iterable[Module]) -> bytes:
    """The modules' paths, one a line."""
    return "".join(f"/{module.path}\n" for module in modules).encode()


def applets(busybox: bytes) -> list[str]:
    """The names of a busybox program's applets, from the sorted table in it; of any architecture.

    Raises InitramfsError when there is no such table.
    """
    start = busybox.find(b"\0[\0[[\0")
    table = busybox[start + 1 : busybox.find(b"\0\0", start + 1)] if start >= 0 else b""
    names = [name.decode("ascii", "replace") for name in table.split(b"\0")]
    if names != sorted(names) or "sh" not in names:
        raise InitramfsError("the busybox program has no table of its commands; use Debian's busybox-static")
    return [name for name in names if name != "busybox"]


def kernel_image(kernel: debian.Package) -> Path:
    """The bootable image in an unpacked kernel package. Raises InitramfsError when there is none."""
    found = sorted((kernel.root / "boot").glob("vmlinu[xz]-*"))
    if not found:
        raise InitramfsError(f"the package {kernel.name} has no kernel in /boot; name a linux-image package")
    return found[0]


def busybox_program(busybox: debian.Package) -> bytes:
    """The program in an unpacked busybox-static. Raises InitramfsError when it is not there."""
    for name in ("bin/busybox", "usr/bin/busybox"):
        if (busybox.root / name).is_file():
            return (busybox.root / name).read_bytes()
    raise InitramfsError(f"the package {busybox.name} has no busybox program; remove it from the cache")


def init_program(architecture: str = "amd64") -> bytes:
    """Our init for *architecture*, built by ``firmware/guest/init/Makefile``.

    Raises InitramfsError without one.
    """
    return linux_program(_INIT, architecture)


def linux_program(path: str, architecture: str = "amd64") -> bytes:
    """One of our programs for Linux guests: its *path* in ``firmware``, without the machine's name.

    Raises InitramfsError when this installation does not have it.
    """
    found = _path_of(path, architecture)
    try:
        with os.fdopen(open_file(found, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            return file.read()
    except OSError as error:
        raise InitramfsError(f"{found} cannot be read: {error.strerror}; install pyvmm again") from None


def keep_init(architecture: str) -> None:
    """Open the init of ``exec_overlay`` for a process that is about to lose the file system.

    Raises InitramfsError when this installation does not have it.
    """
    keep(_path_of(_INIT, architecture), os.O_RDONLY)


def _path_of(path: str, architecture: str) -> str:
    name = f"firmware/{path}.{_MACHINES[architecture]}"
    # In a wheel firmware is inside the package, in a checkout beside it.
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for base in (package, os.path.dirname(package)):
        if f"{base}/{name}" in kept() or os.path.isfile(f"{base}/{name}"):
            return f"{base}/{name}"
    raise InitramfsError(f"{name} is not part of this installation; no guest for {architecture} can be made")
