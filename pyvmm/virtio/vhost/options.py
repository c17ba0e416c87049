"""The options of ``--vhost-user``."""

from __future__ import annotations

from functools import partial

from pyvmm.virtio import ids
from pyvmm.virtio.vhost.back_end_connection import BackEndConnection
from pyvmm.virtio.vhost.channel import connect
from pyvmm.virtio.vhost.frontend import MAX_QUEUES, QUEUE_SIZE, TYPES, VhostUser, fs_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.virtio.options import OptionReader


def from_options(reader: OptionReader) -> VhostUser:
    """``vhost_user``: SOCKET,type=KIND|N[,queues=N][,queue-size=N][,tag=TAG][,uid=N].

    Raises ConfigError, DeviceError.
    """
    path = reader.need("socket")
    kind = reader.need("type")
    if kind in TYPES:
        identifier, queues, size = TYPES[kind]
    elif kind.isdigit() and 0 < int(kind) < 1 << 32:
        identifier, queues = int(kind), 1
        size = next((known[2] for known in TYPES.values() if known[0] == identifier), -1)
    else:
        raise reader.error(f"type={kind} is neither a number nor one of {', '.join(TYPES)}")
    queues = reader.number("queues", queues, 1, MAX_QUEUES) or queues
    queue_size = reader.number("queue-size", QUEUE_SIZE, 1, 32768) or QUEUE_SIZE
    if queue_size & (queue_size - 1):
        raise reader.error(f"queue-size={queue_size} is not a power of two")
    uid = reader.number("uid", None, 0, (1 << 32) - 2)
    config = None
    if kind == "fs":
        config = fs_config(reader.need("tag"), queues - 1, reader.error)
    make = partial(BackEndConnection, partial(connect, path, uid), f"vhost-user {path}")
    return VhostUser(
        reader.open("connection", make),
        identifier,
        ids.NAMES.get(identifier, kind if kind in TYPES else "vhost-user"),
        queues=queues,
        queue_size=queue_size,
        config_size=None if size < 0 else size,
        config=config,
    )
