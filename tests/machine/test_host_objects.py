"""A guest whose machines run in processes of their own, forked from one that has opened everything."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.command import LIMIT, environment

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

BOOTS = 3
WORD = b"boot\n"
#: Opens the console. Then for each boot: makes the devices, which opens what they have on the host the first
#: time, and forks a child whose machine has them; it ends with the guest's reboot.
PARENT = """
    import os, sys
    from pyvmm.backends.host_objects import HostObjects
    from pyvmm.backends.pty import Pty
    from pyvmm.config import Config
    from pyvmm.machine.machine import Machine
    from pyvmm.virtio.options import make_devices

    program, folder, boots = sys.argv[1], sys.argv[2], int(sys.argv[3])
    what = Config(
        firmware=program,
        hvc=["pty", f"socket:{folder}/hvc", f"file:{folder}/log"],
        disk=f"{folder}/disk",
        net=[f"link:{folder}/link,pcap={folder}/frames", "switch:forked"],
        vsock=f"3,path={folder}/vsock",
    )
    console = Pty()
    console.open()
    print(console.path, flush=True)
    sys.stdin.readline()
    host_objects = HostObjects()
    for boot in range(boots):
        devices = list(make_devices(what.devices, host_objects=host_objects))
        child = os.fork()
        if not child:
            try:
                machine = Machine(
                    Config(firmware=program, memory="1M", timeout=20), console=console, devices=devices
                )
                disk = machine.devices["disk0"].disk
                data = bytearray(512)
                disk.read([memoryview(data)], 512 * boot, 512)
                assert data[:1] == b"%d" % boot, data[:1]
                data[:1] = b"%d" % (boot + 1)
                disk.write([memoryview(data)], 512 * (boot + 1), 512, False)
                ending = machine.run()
                assert ending.reason == "reboot", ending
                os._exit(0)
            finally:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        for device in devices:
            device.close()
        print(devices[0].ports[0].backend.path, sorted(os.listdir(folder)), flush=True)
    host_objects.close()
    sys.stdin.readline()
    console.close()
    print(sorted(os.listdir(folder)))
"""


def test_host_objects_that_a_parent_has_opened_serve_one_child_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "disk").write_bytes(b"0".ljust(512 * (BOOTS + 1)))
    reset = programs.outb(0x3F8, *WORD) + programs.outb(0x64, 0xFE)
    script = textwrap.dedent(PARENT)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, programs.rom(tmp_path, reset), str(folder), str(BOOTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    try:
        assert parent.stdin is not None and parent.stdout is not None
        slave = os.open(parent.stdout.readline().strip(), os.O_RDONLY | os.O_NOCTTY)
        try:
            parent.stdin.write("go on\n")
            parent.stdin.flush()
            said = b""
            while said.count(WORD) < BOOTS and (part := os.read(slave, 4096)):
                said += part
        finally:
            os.close(slave)
        output, errors = parent.communicate(timeout=LIMIT)
    finally:
        parent.kill()
        parent.communicate()
    *boots, left = output.splitlines()

    assert (parent.returncode, errors) == (0, "")
    assert said == WORD * BOOTS
    assert len(boots) == BOOTS and len(set(boots)) == 1
    assert boots[0].startswith("/dev/pts/")
    assert all(f"'{name}'" in boots[0] for name in ("hvc", "link", "log", "frames", "vsock"))
    assert left == "['disk', 'frames', 'log']"
    assert (folder / "disk").read_bytes()[::512] == b"0123"
    assert (folder / "frames").stat().st_size == 24
