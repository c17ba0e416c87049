"""Questions to every vCPU: several at a time, each answered once by each, also by one that is gone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pyvmm.machine.questions import Questions
from tests.support.firmware_guest import WATCHDOG, guest


class Thread:
    """The thread of a vCPU, as far as a question goes: it is made to leave KVM_RUN."""

    def __init__(self) -> None:
        self.vcpu: Any = object()
        self.kicks = 0

    def kick(self) -> None:
        self.kicks += 1


class Asked:
    """Questions to two vCPUs, and what came of them in the order it came."""

    def __init__(self) -> None:
        self.one, self.other = self.threads = Thread(), Thread()
        self.questions = Questions(self.threads)  # type: ignore[arg-type]
        self.seen: list[Any] = []

    def ask(self, name: str) -> None:
        self.questions.ask(lambda vcpu: self.seen.append((name, vcpu)), lambda: self.seen.append(name))


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_second_question_leaves_the_first_one_to_be_answered(asked: Asked) -> None:
    one, other = asked.one.vcpu, asked.other.vcpu
    asked.ask("search")
    asked.ask("halted?")
    asked.questions.answer(one)
    asked.questions.answer(other)

    assert asked.seen == [
        ("search", one),
        ("halted?", one),
        ("search", other),
        "search",
        ("halted?", other),
        "halted?",
    ]
    assert [thread.kicks for thread in asked.threads] == [2, 2]


def test_vcpu_that_leaves_kvm_run_again_is_not_asked_again(asked: Asked) -> None:
    asked.ask("search")
    for _ in range(3):
        asked.questions.answer(asked.one.vcpu)

    assert asked.seen == [("search", asked.one.vcpu)]


def test_vcpu_whose_thread_ends_has_answered(asked: Asked) -> None:
    asked.ask("search")
    asked.questions.answer(asked.one.vcpu)
    asked.questions.gone(asked.other.vcpu)

    assert asked.seen == [("search", asked.one.vcpu), "search"]


def test_vcpu_whose_thread_has_ended_has_answered(asked: Asked) -> None:
    asked.questions.gone(asked.one.vcpu)
    asked.ask("first")
    asked.questions.answer(asked.other.vcpu)
    asked.questions.gone(asked.other.vcpu)
    asked.ask("second")

    assert asked.seen == [("first", asked.other.vcpu), "first", "second"]


def test_question_that_raises_is_answered(asked: Asked) -> None:
    def question(_: object) -> None:
        raise ValueError("a question")

    asked.questions.ask(question, lambda: asked.seen.append("answered"))
    for thread in asked.threads:
        with pytest.raises(ValueError, match="a question"):
            asked.questions.answer(thread.vcpu)

    assert asked.seen == ["answered"]


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_questions_at_once_to_running_vcpus_are_each_answered_by_each_in_its_thread(tmp_path: Path) -> None:
    names = range(8)
    done = [threading.Event() for _ in names]
    answers: list[tuple[int, object, int]] = []
    with guest(tmp_path, "spin.bin", cpus=3).machine as machine:
        machine.start()
        for name in names:
            machine._handler.ask(
                lambda vcpu, name=name: answers.append((name, vcpu, threading.get_native_id())),
                done[name].set,
            )
        assert all(event.wait(WATCHDOG) for event in done)

        assert sorted(name for name, _, _ in answers) == sorted([*names] * 3)
        assert len({(vcpu, thread) for _, vcpu, thread in answers}) == 3
