"""The address maps in the reference are those of the machines that are built."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pyvmm import Config, Machine
from pyvmm.arch import native
from pyvmm.board.space import IRQ, MMIO, PORT, Window
from tests.support.repository import ROOT

#: The page's heading for this host's architecture.
HEADING = {"x86_64": "x86-64", "arm64": "arm64"}
END = 1 << 52

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def ranges(column: str) -> list[tuple[int, int]]:
    """The half-open ranges in the tables whose first column is *column*, of this architecture."""
    page = (ROOT / "docs" / "reference" / "address-maps.md").read_text()
    section = page.partition(f"\n## {HEADING[native.NAME]}\n")[2].partition("\n## ")[0]
    table = section.partition(f"| {column} |")[2].partition("\n\n")[0]
    found = re.findall(r"(0x[0-9a-f]+|\b0) -(?: (0x[0-9a-f]+))?(?=[ ,|])", table)
    return [(int(start, 0), int(end, 0) if end else END) for start, end in found]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    config = Config(
        firmware=str(ROOT / "firmware" / native.NAME / "bin" / "exit.bin"),
        console="none",
        rng=True,
        memory="4G",
    )
    with Machine(config) as machine:
        yield machine


def outside(windows: list[Window], column: str) -> list[str]:
    rows = ranges(column)
    return [
        str(window)
        for window in windows
        if not any(start <= window.base and window.end <= end for start, end in rows)
    ]


def test_every_window_of_a_machine_lies_in_a_range_of_the_page(machine: Machine) -> None:
    assert outside(machine.board.windows(MMIO), "address") == []
    if native.NAME == "x86_64":  # arm64 has no ports of its own
        assert outside(machine.board.windows(PORT), "port") == []


def test_ranges_of_a_table_are_in_order_and_disjoint() -> None:
    rows = ranges("address")

    assert len(rows) >= 8
    assert all(end <= start for (_, end), (start, _) in zip(rows, rows[1:], strict=False))


def test_interrupts_of_the_page_are_those_of_the_devices(machine: Machine) -> None:
    if native.NAME != "x86_64":
        pytest.skip("the page's table of interrupts is for x86-64")
    page = (ROOT / "docs" / "reference" / "address-maps.md").read_text()
    table = page.partition("| port |")[2].partition("\n\n")[0]
    shown = {int(number) for number in re.findall(r"\| (\d+) \|$", table, re.MULTILINE)}

    taken = {window.base for window in machine.board.windows(IRQ) if not window.owner.startswith("rng")}
    assert taken <= shown
