"""``pyvmm image``: fetch packages, build an initramfs, build a minimal kernel, show what is there.

What is asked for goes to standard output, a path a line; progress to standard error.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pyvmm.arch import native
from pyvmm.cli.arguments import Parser
from pyvmm.cli.report_handler import show_progress
from pyvmm.errors import ConfigError, StartError
from pyvmm.images import cpio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.images.cpio import CpioEntry


def main(argv: list[str]) -> int:
    """Carry out ``pyvmm image`` with *argv*, the arguments after the verb; returns the exit code, 0.

    Raises a PyvmmError for what cannot be done.
    """
    arguments = parser().parse_args(argv)
    show_progress()
    for line in arguments.action(arguments):
        print(line)
    return 0


def parser() -> Parser:
    """The command line of ``pyvmm image``."""
    image = Parser(prog="pyvmm image", description="Fetch and build guest images; they are cached.")
    verbs = image.add_subparsers(required=True, metavar="VERB", parser_class=Parser)

    fetch = verbs.add_parser(
        "fetch", help="fetch Debian packages through apt; prints where they are unpacked"
    )
    fetch.add_argument("packages", nargs="*", metavar="PACKAGE", help="default: the default guest's")
    _add_architecture(fetch)
    fetch.set_defaults(action=_fetch)

    initramfs = verbs.add_parser("initramfs", help="build an initramfs with our init and busybox")
    initramfs.add_argument("-o", "--output", required=True, metavar="FILE", help="where it goes")
    initramfs.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="SRC:DEST",
        help="a file of this machine, and its place",
    )
    initramfs.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="a kernel module to load; with all it needs",
    )
    initramfs.add_argument(
        "--kernel-package", metavar="PACKAGE", help="where modules come from; default: the default guest's"
    )
    _add_architecture(initramfs)
    initramfs.set_defaults(action=_initramfs)

    kernel = verbs.add_parser(
        "kernel", help="build a minimal guest kernel from Debian's source; prints its path"
    )
    kernel.add_argument("-o", "--output", metavar="FILE", help="copy the image there")
    _add_architecture(kernel)
    kernel.set_defaults(action=_kernel)

    path = verbs.add_parser("path", help="the paths of the default guest's kernel and initrd")
    _add_architecture(path)
    path.set_defaults(action=_path)

    verbs.add_parser("list", help="the packages in the cache").set_defaults(action=_list)
    return image


def _add_architecture(parser: argparse.ArgumentParser) -> None:
    known = ("amd64", "arm64")
    parser.add_argument("--arch", choices=known, default=native.DEBIAN, help="default: this machine's")


def _fetch(arguments: argparse.Namespace) -> list[str]:
    from pyvmm.images import debian
    from pyvmm.images.default import KERNEL_PACKAGES

    names = arguments.packages or [KERNEL_PACKAGES[arguments.arch], "busybox-static"]
    return [str(debian.package(name, arguments.arch).root) for name in names]


def _initramfs(arguments: argparse.Namespace) -> list[str]:
    from pyvmm.images import debian
    from pyvmm.images.default import KERNEL_PACKAGES
    from pyvmm.images.initramfs import build, busybox_program, init_program, kernel_image
    from pyvmm.images.modules import Module, ModuleTree

    architecture = arguments.arch
    files = [_given_file(text) for text in arguments.file]
    modules: list[Module] = []
    if arguments.module:
        name = arguments.kernel_package or KERNEL_PACKAGES[architecture]
        kernel = debian.package(name, architecture)
        release = kernel_image(kernel).name.partition("-")[2]
        modules = ModuleTree(kernel.root, release).load_order(arguments.module)
    busybox = busybox_program(debian.package("busybox-static", architecture))
    data = build(init_program(architecture), busybox, modules=modules, files=files)
    _write(Path(arguments.output), data)
    return [arguments.output]


def _given_file(text: str) -> CpioEntry:
    source, _, target = text.rpartition(":")
    if not source or not target.strip("/"):
        raise ConfigError(
            f"--file {text!r} is not SRC:DEST, a file of this machine and its path in the guest"
        )
    try:
        data = Path(source).read_bytes()
        mode = os.stat(source).st_mode & 0o777
    except OSError as error:
        raise StartError(f"--file {source} cannot be read: {error.strerror}") from None
    return cpio.file(target.strip("/"), data, mode)


def _kernel(arguments: argparse.Namespace) -> list[str]:
    from pyvmm.images.kernel import minimal_kernel

    image = minimal_kernel(arguments.arch)
    if arguments.output is None:
        return [str(image)]
    _write(Path(arguments.output), image.read_bytes())
    return [arguments.output]


def _path(arguments: argparse.Namespace) -> list[str]:
    from pyvmm.images.default import default_guest

    guest = default_guest(arguments.arch)
    return [guest.kernel, guest.initrd]


def _list(arguments: argparse.Namespace) -> list[str]:
    from pyvmm.images import debian

    return debian.fetched()


def _write(path: Path, data: bytes) -> None:
    """Write the whole file or none of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StartError(f"{path} cannot be written: {error.strerror}; name another file") from None
