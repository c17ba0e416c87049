"""Signals delivered by the event loop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from pyvmm.loop import Loop
from pyvmm.signals import SIGHUP, SIGINT, SIGTERM, SIGWINCH, SignalFd


def here(number):
    """Send to this thread: the process has others, of pytest's and of earlier tests, that do not block it."""
    signal.pthread_kill(threading.get_ident(), number)


def blocked():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_signal_when_sent_reaches_its_handler_in_the_loop():
    seen = []
    with Loop() as loop, SignalFd(loop, {SIGTERM: seen.append, SIGHUP: seen.append}):
        here(SIGTERM)
        here(SIGHUP)
        loop.run_once(5)
    assert sorted(seen) == [SIGHUP, SIGTERM]


def test_mask_when_closed_is_as_before():
    before = blocked()
    with Loop() as loop:
        signals = SignalFd(loop, {SIGINT: print, SIGWINCH: print})
        assert blocked() == before | {signal.SIGINT, signal.SIGWINCH}
        signals.close()
        signals.close()
        assert blocked() == before


def test_signal_when_pending_at_close_does_not_kill():
    with Loop() as loop, SignalFd(loop, {SIGTERM: lambda number: pytest.fail("called")}):
        here(SIGTERM)
    assert signal.SIGTERM not in signal.sigpending()


THREADS = """
import os, threading
from pyvmm.loop import Loop
from pyvmm.signals import SIGTERM, SignalFd
seen = []
with Loop() as loop, SignalFd(loop, {SIGTERM: seen.append}):
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    os.kill(os.getpid(), SIGTERM)
    loop.run_once(5)
    release.set()
    thread.join()
print(seen == [SIGTERM])
"""


def test_threads_started_afterwards_do_not_get_the_signal():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (0, b"True\n"), done


def test_child_when_unblocked_before_exec_can_be_terminated():
    with Loop() as loop, SignalFd(loop, {SIGTERM: print}) as signals:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=signals.unblock_here,
        )
        with child:
            child.stdout.readline()
            child.terminate()
            assert child.wait(20) == -SIGTERM
