"""A configuration whose kernel is ``host``, a kernel tree or has ``modules``: with files in their place."""

from __future__ import annotations

import os

from pyvmm.config.keys import HOST_KERNEL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import Config
    from pyvmm.images.guest_files import GuestFiles

#: What the driver of a kind of device is called; all need virtio_mmio, too.
MODULES = {
    "disk": "virtio_blk",
    "hvc": "virtio_console",
    "net": "virtio_net",
    "rng": "virtio_rng",
    "vsock": "vmw_vsock_virtio_transport",
    "balloon": "virtio_balloon",
    "share": "virtiofs",
}


def needs_boot_files(config: Config) -> bool:
    """Whether the kernel is ``host`` or a directory, or has ``modules``: ``with_boot_files`` is for these."""
    kernel = config.kernel
    return kernel is not None and (
        kernel == HOST_KERNEL or config.modules is not None or os.path.isdir(kernel)
    )


def with_boot_files(config: Config) -> Config:
    """*config* with files in place of what stands for some.

    It is *config* itself where nothing does, else its initrds come behind an initramfs with our init. What
    the kernel lacks for the devices asked for is reported. Raises StartError, ConfigError, ImageError.
    """
    if not needs_boot_files(config):
        return config
    from pyvmm.images import own

    kernel, modules = config.kernel, config.modules
    assert kernel is not None, "a kernel needs the files"
    if kernel == HOST_KERNEL:
        guest = own.host_guest()
    elif modules is not None:
        guest = own.image_guest(kernel, modules)
    else:
        guest = own.tree_guest(kernel)
    return with_guest(config, guest)


def with_guest(config: Config, guest: GuestFiles) -> Config:
    """*config* with the kernel of *guest* and its initramfs before the config's; reports what it lacks."""
    from pyvmm.host.notice import notice  # here: every boot of a kernel loads this module

    kinds = [device.kind for device in config.devices]
    for module in guest.missing:
        users = kinds if module == "virtio_mmio" else [kind for kind in kinds if MODULES.get(kind) == module]
        if users:
            notice(
                f"missing {module}",
                f"kernel {guest.release} has no module {module}: {', '.join(dict.fromkeys(users))} will "
                "not work",
            )
    if not guest.has_programs:
        notice(
            "no busybox",
            "this host has no static busybox: the guest has our init alone, which runs only programs that "
            "you add with --initrd; install one (Fedora, Arch: busybox; Debian and others: busybox-static)",
        )
    return config.replace(kernel=guest.kernel, modules=None, initrd=[guest.initrd, *config.initrd])
