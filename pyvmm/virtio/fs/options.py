"""The options of ``--share``."""

from __future__ import annotations

import os

from pyvmm.virtio.fs.device import Share
from pyvmm.virtio.fs.virtiofsd import Virtiofsd
from pyvmm.virtio.vhost.frontend import fs_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.options import OptionReader


def from_options(reader: OptionReader) -> Share:
    """``share``: DIR[:TAG][,tag=TAG][,ro][,as-root]. Raises ConfigError, DeviceError, BackendError."""
    path = reader.need("path")
    tag = reader.text("tag")
    if tag is None and not os.path.isdir(path) and ":" in path:
        path, _, tag = path.rpartition(":")
    path = os.path.realpath(path)
    if tag is None:
        tag = os.path.basename(path) or "root"
    config = fs_config(tag, 1, reader.error)
    readonly = reader.flag("ro")
    as_root = reader.flag("as-root")
    return Share(reader.open("virtiofsd", lambda: Virtiofsd(path, readonly, as_root)), config)
