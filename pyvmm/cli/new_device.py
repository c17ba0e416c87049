"""``pyvmm new-device``: the beginning of a virtio device, with its tests."""

from __future__ import annotations

import keyword
import os
import sys

from pyvmm.cli.options import Option, OptionParser
from pyvmm.errors import ConfigError, StartError

OPTIONS = OptionParser(
    "pyvmm new-device NAME [--dir DIRECTORY]",
    "Writes NAME.py, a virtio device that works; test_NAME.py, which drives it without a guest; and\n"
    "test_NAME_guest.py, which boots a Linux guest with it. Nothing is overwritten.",
    [Option("dir", "DIRECTORY", "where the files go; made if need be [.]")],
)

DEVICE = '''\
"""A virtio device: fills its driver's buffers with a text, repeated.

    pyvmm run --device ./@module@.py:@Class@,text=hello

Its driver in the guest is virtio_rng; programs read the text from /dev/hwrng.
"""

from __future__ import annotations

from pyvmm import Chain, VirtioDevice

#: The most bytes that one request gets, whatever the driver asks for.
LIMIT = 4096


class @Class@(VirtioDevice):
    """The device. A constructor's argument is an option of ``--device``; its annotation converts it."""

    # Section 5 of the virtio specification lists the numbers. This is the entropy device's: every
    # Linux has a driver for it, so that your device works at once; its output is read from
    # /dev/hwrng. Choose another number when you write a driver of your own.
    device_id = 4
    name = "@name@"
    # One queue of at most 64 descriptors. More queues are more numbers.
    queue_sizes = (64,)
    # The configuration space, which the driver reads: config_fields = {"speed": "u32"}; self.config.speed

    def __init__(self, text: str = "hello") -> None:
        super().__init__()
        if not text:
            raise ValueError("text is empty; give it a letter at least")
        self.text = text.encode()

    def handle(self, queue: int, chain: Chain) -> None:
        """One request: chain.read() reads what the driver sent, chain.write() writes into its buffers."""
        room = min(chain.writable_size, LIMIT)
        chain.write((self.text * (room // len(self.text) + 1))[:room])
'''

TEST = '''\
"""@Class@ without a guest: the fake driver lays rings in memory and drives it."""

from __future__ import annotations

import pytest
from @module@ import LIMIT, @Class@

from pyvmm.testing import FakeDriver


def test_request_gets_the_text_as_often_as_it_fits() -> None:
    with FakeDriver(@Class@(text="abc")) as driver:
        assert driver.request(0, writable=[4, 4]) == b"abcabcab"


def test_request_with_too_much_room_gets_the_limit() -> None:
    with FakeDriver(@Class@()) as driver:
        assert len(driver.request(0, writable=[2 * LIMIT])) == LIMIT


def test_request_without_room_comes_back_empty() -> None:
    with FakeDriver(@Class@()) as driver:
        assert driver.request(0, [b"read only"]) == b""


def test_text_that_is_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="text is empty"):
        @Class@(text="")
'''

GUEST_TEST = '''\
"""@Class@ in a Linux guest: Debian's stock kernel, fetched once, drives it by its own driver.

Where there is no hardware for KVM: pyvmm lab x86_64 -- python -m pytest @test@
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.arch import native

DEVICE = Path(__file__).with_name("@module@.py")

needs_hardware = not native.host().runs_ring0_in_hardware()
pytestmark = pytest.mark.skipif(needs_hardware, reason="no hardware for KVM here")


def test_driver_reads_what_the_device_gives() -> None:
    device = f"{DEVICE}:@Class@,text=pyvmm"
    command = "head -c 200 /dev/hwrng"

    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", "--timeout", "4m", "--device", device, "--exec", command],
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    assert b"pyvmmpyvmm" in done.stdout
'''


def main(argv: list[str]) -> int:
    """Run ``pyvmm new-device`` with the arguments after the verb; returns the exit code, 0.

    Raises ConfigError, and StartError when a file cannot be written.
    """
    values, arguments = OPTIONS.parse(argv)
    if len(arguments) != 1:
        raise ConfigError("new-device takes one name: pyvmm new-device NAME [--dir DIRECTORY]")
    paths = write(arguments[0], str(values.get("dir", ".")))
    module = paths[0]
    print("\n".join(paths))
    print(f"\nNow: python -m pytest {paths[1]}; pyvmm run --device {module}:{class_name(arguments[0])}")
    return 0


def write(name: str, folder: str) -> list[str]:
    """Write the files of device *name* into *folder*; their paths. Raises ConfigError, StartError."""
    module = check_name(name)
    words = {"name": name, "module": module, "Class": class_name(name), "test": f"test_{module}_guest.py"}
    files = {f"{module}.py": DEVICE, f"test_{module}.py": TEST, f"test_{module}_guest.py": GUEST_TEST}
    paths = {os.path.join(folder, file): text for file, text in files.items()}
    for path in paths:
        if os.path.lexists(path):
            raise ConfigError(f"{path} is there already and is not overwritten; choose another name or --dir")
    try:
        os.makedirs(folder, exist_ok=True)
        for path, text in paths.items():
            for key, word in words.items():
                text = text.replace(f"@{key}@", word)
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise StartError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    return list(paths)


def check_name(name: str) -> str:
    """The module's name for device *name*. Raises ConfigError for a name that cannot be one."""
    module = name.replace("-", "_").lower()
    if (
        not module.isascii()
        or not module.isidentifier()
        or module.startswith("_")
        or keyword.iskeyword(module)
    ):
        raise ConfigError(f"{name!r} is no name for a device; use letters, digits and -, a letter first")
    if module in sys.stdlib_module_names or module in ("pyvmm", "pytest"):
        raise ConfigError(f"{module} is a module of Python's or pyvmm's own; choose another name")
    return module


def class_name(name: str) -> str:
    """``my-device`` -> ``MyDevice``."""
    return "".join(word[:1].upper() + word[1:] for word in name.replace("-", "_").split("_"))
