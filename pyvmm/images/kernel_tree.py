"""A kernel tree: a directory in which a kernel was built, its source or that of ``make O=``."""

from __future__ import annotations

from pathlib import Path

from pyvmm.arch import native
from pyvmm.images.modules import is_built_tree
from pyvmm.images.release import KernelFileError

#: Images that this machine boots, the first that exists is taken, and what makes the first.
_IMAGES = {
    "amd64": ("arch/x86/boot/bzImage",),
    "arm64": ("arch/arm64/boot/Image", "arch/arm64/boot/Image.gz", "arch/arm64/boot/vmlinuz.efi"),
}
#: What every source tree has.
_SOURCE = ("Kbuild", "Makefile", "arch")


def built_image(tree: Path) -> Path:
    """The image that was built in *tree* for this machine's architecture.

    Raises KernelFileError for a tree without one, and for a directory that is no kernel tree.
    """
    wanted = _IMAGES[native.DEBIAN]
    for name in wanted:
        if (tree / name).is_file():
            return tree / name
    if is_built_tree(tree) or all((tree / name).exists() for name in _SOURCE):
        raise KernelFileError(
            f"the kernel tree {tree} has no {wanted[0]}; build it there with `make {Path(wanted[0]).name}`"
        )
    raise KernelFileError(
        f"kernel {tree} is a directory and no kernel tree; give the path of an image, or a tree with a built "
        "kernel"
    )
