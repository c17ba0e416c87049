"""scripts/test.py: what runs when, what is run again, and that every test of the lab is in a piece."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def suite() -> Any:
    spec = importlib.util.spec_from_file_location("scripts_test", ROOT / "scripts" / "test.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def shell(suite: Any, script: str, **keys: Any) -> Any:
    return suite.Task(script, ["sh", "-c", script], **keys)


def test_task_when_its_host_is_lost_gets_another_one_and_says_so(suite: Any, tmp_path: Path) -> None:
    script = f"echo x >>{tmp_path}/tries; exit 64"
    lost = shell(suite, script, in_lab=True)

    lost.run()

    assert (lost.code, lost.lost) == (suite.LAB_LOST, suite.LAB_TRIES)
    assert (tmp_path / "tries").read_text() == "x\n" * suite.LAB_TRIES


@pytest.mark.parametrize("code", [0, 1, 124])
def test_task_when_its_tests_fail_or_take_too_long_is_not_run_again(
    suite: Any, tmp_path: Path, code: int
) -> None:
    task = shell(suite, f"echo x >>{tmp_path}/tries; exit {code}", in_lab=True)

    task.run()

    assert (task.code, task.lost, (tmp_path / "tries").read_text()) == (code, 0, "x\n")


def test_schedule_when_a_task_needs_another_runs_it_afterwards_and_the_longest_first(
    suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "AT_ONCE", 1)
    order, lock = [], threading.Lock()

    class Noted(suite.Task):
        def run(self) -> None:
            with lock:
                order.append(self.name)

    tasks = [
        Noted("short", [], 1),
        Noted("needy", [], 9, frozenset({"build"})),
        Noted("long", [], 5),
        Noted("build", [], 20, frozenset({"fetch"}), tests=False),
        Noted("fetch", [], 0, tests=False),
    ]
    suite.Schedule(tasks).run()

    assert sorted(order) == ["build", "fetch", "long", "needy", "short"]
    assert order.index("fetch") < order.index("build") < order.index("needy")
    assert order.index("long") < order.index("short")


def test_pieces_when_read_name_files_that_exist_and_needs_that_are_prepared(suite: Any) -> None:
    for piece in suite.PIECES:
        assert [word for word in piece.words if "/" in word and not (ROOT / word).exists()] == []
        assert suite.on_host(piece).needs <= set(suite.PREPARATIONS)


def test_first_piece_leaves_out_exactly_what_the_others_of_its_host_run(suite: Any) -> None:
    left = {word for word in suite.on_host(suite.PIECES[0]).command if word.startswith("--ignore=")}
    others = [piece for piece in suite.PIECES[1:] if piece.host == suite.X86_64]

    run = {f"--ignore={word}" for piece in others for word in piece.words if word.startswith(suite.T)}
    assert run == left
