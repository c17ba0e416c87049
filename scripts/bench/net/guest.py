"""Inside the lab: a tap, the host's ends of the load, and the guests of ``net`` one after the other."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from until import workloads

PIECE = 64 << 10


def main() -> None:
    job = json.loads(sys.argv[1])
    tap = job["tap"]
    for words in (
        f"tuntap add {tap} mode tap vnet_hdr",
        f"addr add {job['address']}/24 dev {tap}",
        f"link set {tap} up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    stream(socket.create_server((job["address"], job["ports"]["in"])), give)
    stream(socket.create_server((job["address"], job["ports"]["out"])), take)
    datagrams(job["address"], job["ports"]["echo"], True)
    datagrams(job["address"], job["ports"]["flood"], False)
    for run in job["runs"]:
        print(json.dumps(workloads(run)), flush=True)


def stream(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """*serve* each connection of *listener*'s, in a thread of its own."""

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    serve(connection)
                except OSError:
                    pass  # the guest has what it wanted

    threading.Thread(target=run, daemon=True).start()


def give(connection: socket.socket) -> None:
    data = bytes(PIECE)
    while True:
        connection.sendall(data)


def take(connection: socket.socket) -> None:
    room = bytearray(4 * PIECE)
    while connection.recv_into(room):
        pass


def datagrams(address: str, port: int, answer: bool) -> None:
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((address, port))

    def run() -> None:
        while True:
            data, peer = end.recvfrom(2048)
            if answer:
                end.sendto(data, peer)

    threading.Thread(target=run, daemon=True).start()


if __name__ == "__main__":
    main()
