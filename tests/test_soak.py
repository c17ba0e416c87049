"""scripts/soak: lists campaigns, runs one for the time it is given, and keeps its result."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from tests.fuzz import found as found_inputs
from tests.soak import kill, machines
from tests.soak.campaign import Campaign
from tests.soak.campaigns import CAMPAIGNS
from tests.soak.fuzz import in_python

#: Seconds of a campaign's short form on a busy machine, which gets less done.
LIMIT = 30

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    loader = SourceFileLoader("soak", str(ROOT / "scripts" / "soak"))
    spec = importlib.util.spec_from_loader("soak", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def call(monkeypatch: pytest.MonkeyPatch, soak: ModuleType, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["soak", *words])
    monkeypatch.setattr(soak, "PYTHON", Path("/nowhere/bin/python"))
    code: int = soak.main()
    return code


def found(seconds: float, seed: int) -> str:
    raise AssertionError(f"seed {seed}:\nfiles are missing")


def test_campaigns_when_none_is_named_are_listed() -> None:
    done = subprocess.run([ROOT / "scripts" / "soak"], capture_output=True, text=True, check=True)

    assert [line.split()[0] for line in done.stdout.splitlines()] == list(CAMPAIGNS)


def test_campaign_when_run_ends_with_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], soak: ModuleType
) -> None:
    campaign = Campaign("", 1, False, lambda seconds, seed: f"{seconds:g} s well spent")
    monkeypatch.setitem(CAMPAIGNS, "short", campaign)

    assert call(monkeypatch, soak, "short", "--time", "2s", "--seed", "7") == 0

    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"short: 2 s well spent; 0 min, .*, seed 7, \S+( \S+)?", line)


def test_campaign_when_it_finds_something_fails_with_one_line_and_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    soak: ModuleType,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(CAMPAIGNS, "short", Campaign("", 1, False, found))
    monkeypatch.setattr(soak, "PAGE", tmp_path / "page")

    assert call(monkeypatch, soak, "short", "--record") == 1

    assert capsys.readouterr().out.startswith("short: FAILED: seed 0: files are missing; ")
    assert not soak.PAGE.exists()


def test_result_when_recorded_takes_the_place_of_the_campaigns_last(
    monkeypatch: pytest.MonkeyPatch, soak: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    page.write_text((ROOT / "docs" / "internals" / "soak.md").read_text())
    monkeypatch.setattr(soak, "PAGE", page)

    soak.record("short", "short: one")
    soak.record("other", "other: x")
    soak.record("short", "short: two")

    text = page.read_text()
    assert "\n- other: x\n" in text and "\n- short: two\n" in text and "short: one" not in text
    assert text.startswith("# Campaigns") and "## A new campaign" in text


def test_page_when_read_names_every_campaign() -> None:
    page = (ROOT / "docs" / "internals" / "soak.md").read_text()

    assert [name for name in CAMPAIGNS if f"| `{name}` |" not in page] == []


def test_fuzzing_when_given_a_moment_completes_chains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(found_inputs, "folder", lambda name: tmp_path)

    programs, chains = in_python("rng", 0.5, 1)

    assert programs > 0 and chains > 0


@pytest.mark.kvm
def test_commands_that_are_killed_leave_nothing() -> None:
    assert re.match(r"[1-9]\d* starts, killed ", kill.rounds(LIMIT, 20, 2026))


@pytest.mark.kvm
def test_many_machines_with_devices_in_one_process_leave_nothing() -> None:
    assert re.match(r"[1-9]\d* machines in one process: ", machines.rounds(LIMIT, 40, 2026))
