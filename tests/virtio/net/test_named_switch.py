"""A card that is alone on a switch by name while another process has a switch of that name: it is told."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.net.named_switch import PATIENCE
from pyvmm.virtio.options import make_device
from tests.support.command import LIMIT, environment
from tests.support.machine_time import Time

SENTENCE = "give both --net link:PATH"
#: Has a card on each of the switches that are its arguments until its input ends.
OTHER = """
import sys
from pyvmm.config import DEVICE_KINDS
from pyvmm.virtio.options import make_device
cards = [make_device(DEVICE_KINDS["net"].parse(name)) for name in sys.argv[1:]]
print("has them", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def card(name: str) -> VirtioDevice:
    return make_device(DEVICE_KINDS["net"].parse(name))


@contextmanager
def another_process(*names: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"has them\n"
        yield
        process.stdin.close()
        assert process.wait(LIMIT) == 0


def told_after(monkeypatch: pytest.MonkeyPatch, device: VirtioDevice, seconds: float = PATIENCE) -> bool:
    """Whether the card is told within *seconds* of its driver's start; its device is closed then."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("pyvmm.virtio.net")
    logger.addHandler(handler)
    try:
        with FakeDriver(device, start=False) as driver:
            time = Time(driver, monkeypatch)
            driver.probe()
            time.move(seconds)
            driver.reset()
            driver.probe()
            time.move(seconds)
    finally:
        logger.removeHandler(handler)
    assert len(records) <= 1
    return any(SENTENCE in record.getMessage() for record in records)


def test_card_that_is_alone_while_another_process_has_the_switch_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with another_process("switch:divided"):
        assert told_after(monkeypatch, card("switch:divided"))


def test_card_that_is_alone_in_the_one_process_with_its_switch_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with another_process("switch:other"):
        assert not told_after(monkeypatch, card("switch:single"))


def test_card_of_a_process_that_adds_a_second_one_a_moment_later_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with another_process("switch:late"):
        first = card("switch:late")
        assert not told_after(monkeypatch, card("switch:late"), PATIENCE - 1)
        second = card("switch:late")
        assert not told_after(monkeypatch, first)
        second.close()


def test_switch_of_a_process_that_has_ended_or_closed_its_cards_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card("switch:gone").close()
    with another_process("switch:gone"):
        pass

    assert not told_after(monkeypatch, card("switch:gone"))


def test_process_that_was_there_first_has_the_switch_and_a_child_it_forks_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = card("switch:first")
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(told_after(monkeypatch, card("switch:first"))))
    child.start()
    child.join(LIMIT)

    assert child.exitcode == 0
    assert reader.recv()
    assert not told_after(monkeypatch, ours)


def test_card_without_a_directory_for_the_file_works_and_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pyvmm").write_text("in the way")

    assert not told_after(monkeypatch, card("switch:nowhere"))
