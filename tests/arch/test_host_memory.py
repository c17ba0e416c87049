"""RAM for which KVM needs more memory of its own than this host has."""

from __future__ import annotations

import os
import re

import pytest

from pyvmm.arch import native
from tests.support.command import BIN, pyvmm

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

#: Bytes that KVM needs for a page where it has no nested paging.
LISTS = 10


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_ram_for_which_kvms_lists_do_not_fit_this_host_is_refused_at_once(sandbox: str) -> None:
    if native.NAME != "x86_64" or native.host().virtualization() != "PVM":
        pytest.skip("only a KVM with shadow page tables has lists for all pages")
    all_memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gib = all_memory // LISTS * os.sysconf("SC_PAGE_SIZE") // (1 << 30) + 1
    if gib > 64 << 10:
        pytest.skip("no guest may have as much RAM as would be refused here")
    options = ["--firmware", str(BIN / "hello0.bin"), "--memory", f"{gib}G", f"--sandbox={sandbox}"]

    done = pyvmm("run", *options)

    assert done.returncode == 64
    said = re.search(r"guest memory need (\d+) MiB .* and (\d+) MiB are available", done.stderr.decode())
    assert said is not None and int(said[1]) > int(said[2]), done.stderr
