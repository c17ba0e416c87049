"""VMMs killed while their guests make files: the short form of the campaign ``scripts/soak block-kill``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.soak.block_kill import AT_ONCE, kill_one
from tests.support.disk_guest import LIMIT, tool
from tests.support.native import ARM64

pytestmark = [pytest.mark.hw, pytest.mark.timeout(2 * LIMIT)]

#: Fewer where a boot takes longest: the VMM's part is the same.
KILLS = 2 if ARM64 else 4


def test_killed_vmm_leaves_a_clean_file_system_with_all_that_was_synced(tmp_path: Path) -> None:
    initrd = tool(tmp_path)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        promised = list(pool.map(lambda seed: kill_one(seed, initrd, tmp_path), range(KILLS)))

    assert len(promised) == KILLS
