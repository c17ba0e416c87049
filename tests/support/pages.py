"""The documentation pages, and the programs printed in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL, TESTING = "guide/own-device.md", "guide/testing.md"


def files_of(page: str) -> dict[str, str]:
    """The Python blocks of a page by the file name in their first line."""
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return dict(blocks)
