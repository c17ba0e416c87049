"""The release of a kernel is read from every format that this machine boots."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pyvmm.images.release import KernelFileError, kernel_release
from tests.support.host_layouts import kernel_file
from tests.support.images import bzimage, elf, pe

BANNER = b"\0Linux version %s (proc-%s) (x@y) #1\n\0Linux version 6.12.117+deb13-amd64 (debian@x) (gcc)\0"


@pytest.mark.parametrize(
    "data",
    [
        kernel_file("6.12.117+deb13-amd64"),
        elf([(0, BANNER, 0x1000)], 0),
        BANNER,
        gzip.compress(BANNER),
        pe([(".cmdline", b"quiet"), (".linux", kernel_file("6.12.117+deb13-amd64"))]),
        pe([(".linux", BANNER)]),
    ],
    ids=["bzImage", "vmlinux", "Image", "Image.gz", "unified bzImage", "unified Image"],
)
def test_release_is_the_one_that_uname_prints(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "kernel").write_bytes(data)

    assert kernel_release(tmp_path / "kernel") == "6.12.117+deb13-amd64"


@pytest.mark.parametrize("data", [b"", b"text", bzimage(), kernel_file("../../etc"), kernel_file("")])
def test_file_that_names_no_release_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "kernel").write_bytes(data)

    with pytest.raises(KernelFileError, match="does not say which release"):
        kernel_release(tmp_path / "kernel")


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="does not exist"):
        kernel_release(tmp_path / "kernel")
    with pytest.raises(KernelFileError, match="not a regular file"):
        kernel_release(tmp_path)
