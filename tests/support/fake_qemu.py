"""Stands for QEMU: listens where its command line says and answers like the init of the emulated host.

``FAKE_QEMU`` in the environment sets what it does: "well" (the default), "hang" (it listens
and never answers), "stop" (it answers until the file ``FAKE_QEMU_STOP`` is there), "refuse" (every command
fails), "die" (it ends at once).
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import struct
import sys
import time

from pyvmm.exec import frames


def answer(frame, status):
    if frame.type == frames.HOST_HELLO:
        nonce = struct.unpack_from("<I", frame.payload, 4)[0]
        return frames.encode(
            frames.GUEST_HELLO, 0, struct.pack("<HHIII", frames.VERSION, 0, nonce, 65536, 65536)
        )
    if frame.type == frames.HOST_RUN:
        text = frames.encode(frames.GUEST_STDERR, frame.run, b"as it was told") if status else b""
        return text + frames.encode(frames.GUEST_EXIT, frame.run, struct.pack("<II", status, 0))
    return b""


def main():
    mode = os.environ.get("FAKE_QEMU", "well")
    with open(os.environ["FAKE_QEMU_STARTS"], "a") as starts:
        starts.write("x")
    if mode == "die":
        sys.exit(3)
    selector = selectors.DefaultSelector()
    for path in re.findall(r"path=([^ ]*/c\d+),server", " ".join(sys.argv)):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ, None)
    while mode == "hang":
        time.sleep(60)
    while True:
        for key, _ in selector.select():
            while mode == "stop" and os.path.exists(os.environ["FAKE_QEMU_STOP"]):
                time.sleep(60)
            if key.data is None:
                selector.register(key.fileobj.accept()[0], selectors.EVENT_READ, frames.Decoder())
                continue
            data = key.fileobj.recv(65536)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                continue
            for frame in key.data.feed(data):
                key.fileobj.sendall(answer(frame, int(mode == "refuse")))


main()
