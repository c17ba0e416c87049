"""The documentation pages, and the programs printed in them.

A fenced block that is ``python`` or ``sh`` is a program; a Python block whose first line is ``# NAME.py``
is a file instead, as is a ``toml`` block whose first line is ``# NAME.toml``. An ``output`` block behind a
program is what it prints; ``...`` in it stands for any text. A comment before a program says what it needs,
in words that are the test suite's markers, ``<!-- needs: hw -->``, or why no test runs it,
``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.native import CONSOLE
from tests.support.require import INSIDE_LAB

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL, TESTING = "guide/own-device.md", "guide/testing.md"

_BLOCK = re.compile(
    r"(?:^<!-- (needs|not run): (.*?) -->\n+)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; *line* is that of its first line of text, from 1."""

    page: str
    line: int
    language: str
    text: str
    needs: tuple[str, ...] = ()
    why_not: str = ""
    output: str | None = None

    @property
    def file(self) -> str | None:
        """The name of the file that the block is."""
        found = re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return found[1] if found else None

    @property
    def is_program(self) -> bool:
        return self.language == "sh" or (self.language == "python" and self.file is None)


def blocks(page: str) -> list[Block]:
    """The fenced blocks of ``docs/PAGE``, each output with its program."""
    text = (ROOT / "docs" / page).resolve().read_text()
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        marker, what, language, body = match.groups()
        if language == "output":
            assert found and found[-1].is_program, f"{page}: the output {body!r} belongs to no program"
            found[-1] = replace(found[-1], output=body)
            continue
        needs = tuple(what.split()) if marker == "needs" else ()
        why_not = what if marker == "not run" else ""
        line = text.count("\n", 0, match.start(4)) + 1
        found.append(Block(page, line, language, body, needs, why_not))
    return found


def files_of(page: str) -> dict[str, str]:
    """The files that a page prints, by name."""
    return {block.file: block.text for block in blocks(page) if block.file is not None}


def prints(output: str, expected: str) -> bool:
    """Whether *output* has the form of *expected*, in which ``...`` stands for any text.

    ``...`` on a line of its own stands for any lines, also none.
    """
    lines = re.split(r"(?m)^\.\.\.\n", expected.strip())
    parts = [r".*?".join(map(re.escape, part.split("..."))) for part in lines]
    return re.fullmatch(r"(?:.*?\n)??".join(parts), output.replace("\r", "").strip(), re.DOTALL) is not None


def run(block: Block, folder: Path, limit: float) -> subprocess.CompletedProcess[str]:
    """Run a program in *folder*, beside the page's files, with this checkout's ``pyvmm`` and firmware."""
    for name, text in files_of(block.page).items():
        (folder / name).write_text(text)
    for name in ("firmware", "examples"):
        (folder / name).symlink_to(ROOT / name)
    commands = folder / ".bin"
    commands.mkdir()
    for name, words in (("pyvmm", "-m pyvmm"), ("python", ""), ("python3", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (commands / name).chmod(0o755)
    before = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{before}" if before else str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    text = block.text
    if os.geteuid() == 0:  # the pages are for ordinary users; root's own directory is shared so
        text = text.replace("--share shared ", "--share shared,as-root ")
    if INSIDE_LAB:  # there the kernel's log takes longer than the rest of the boot, as each letter is an exit
        text = text.replace("Guest(", f'Guest(cmdline="console={CONSOLE} quiet panic=-1", ')
    program = [sys.executable, "-c", text] if block.language == "python" else ["sh", "-ec", text]
    return subprocess.run(
        program,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
