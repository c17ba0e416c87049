"""What the guest printed, and typing at it.

The console is the first serial port, as bytes come: a terminal's lines end with ``\\r\\n``. The last
1 MiB is kept.
"""

from __future__ import annotations

import re
import time

from pyvmm.backends.base import Detached
from pyvmm.errors import ConfigError
from pyvmm.guest.errors import GuestEnded, GuestTimeout, UnwantedOutput
from pyvmm.guest.watch import Until, Watch, deadline_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from pyvmm.guest.watch import Waits
    from pyvmm.machine.ending import Ending

    Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]

#: Bytes of output that are kept at least; twice as many at most.
KEPT = 1 << 20

#: Seconds between two times that output wakes who waits; ``expect`` looks once more after that.
_LOOK = 0.01
#: How much longer than a search in vain took ``expect`` waits until the next one.
_REST = 4


class GuestConsole:
    """A guest's console: ``expect`` what it prints, ``send`` what it is to read.

    ``expect`` goes through the output once: each call looks at what comes after the last match. Any thread
    may call any method.
    """

    def __init__(self, watch: Watch, ending: Callable[[], Ending | None], tail: Callable[[], str]) -> None:
        self._watch = watch
        self._ending = ending
        self._tail = tail
        self._data = bytearray()
        self._base = 0  # the mark of the first byte kept
        self._position = 0  # the mark up to which expect has come
        self._last_output = time.monotonic()
        self._woken = 0.0
        #: What stands behind the machine's serial port.
        self.backend = Detached()
        self.backend.observe(self._record)

    @property
    def data(self) -> bytes:
        """The output, the last 1 MiB of it at least."""
        with self._watch.condition:
            return bytes(self._data)

    @property
    def text(self) -> str:
        """The same as text."""
        return self.data.decode(errors="replace")

    def mark(self) -> int:
        """A place in the output: what comes from now on is ``since(mark)``."""
        with self._watch.condition:
            return self._base + len(self._data)

    def since(self, mark: int) -> str:
        """The output after *mark*, of what is still kept."""
        with self._watch.condition:
            return bytes(self._data[max(0, mark - self._base) :]).decode(errors="replace")

    # Waiting for output

    def expect(
        self, pattern: Pattern, timeout: float | None = None, *, never: Sequence[Pattern] = ()
    ) -> re.Match[Any]:
        """Wait until the output after the last match has a match of the regular expression *pattern*.

        :param timeout: seconds; None waits until the guest ends
        :param never: patterns that must not come before *pattern* does
        :returns: the match; ``match.string[: match.start()]`` is what came before it

        A pattern of bytes matches bytes. Raises GuestTimeout, GuestEnded, UnwantedOutput.
        """
        return self._watch.drive(self._expecting(pattern, timeout, never))

    async def expect_async(
        self, pattern: Pattern, timeout: float | None = None, *, never: Sequence[Pattern] = ()
    ) -> re.Match[Any]:
        """``expect``, awaited."""
        return await self._watch.drive_async(self._expecting(pattern, timeout, never))

    def settle(self, quiet: float, timeout: float | None = None) -> None:
        """Wait until the guest has printed nothing for *quiet* seconds. Raises GuestTimeout, GuestEnded."""
        self._watch.drive(self._settling(quiet, timeout))

    async def settle_async(self, quiet: float, timeout: float | None = None) -> None:
        """``settle``, awaited; *quiet* as there."""
        await self._watch.drive_async(self._settling(quiet, timeout))

    # Typing

    def send(self, text: str | bytes) -> None:
        """Type *text* as it is. Returns at once; the guest takes it as fast as it reads."""
        self.backend.send(text.encode() if isinstance(text, str) else bytes(text))

    def sendline(self, text: str | bytes = "") -> None:
        """Type *text* and the Enter key."""
        self.send((text.encode() if isinstance(text, str) else bytes(text)) + b"\r")

    def control(self, key: str) -> None:
        """Press Ctrl and *key*: ``control("c")``. Raises ConfigError for a key that has no such code."""
        code = ord(key.upper()) ^ 0x40 if len(key) == 1 else 0x100
        if code >= 0x20 and code != 0x7F:
            raise ConfigError(f"control: {key!r} is no key with Ctrl; give a letter or one of @[\\]^_?")
        self.send(bytes((code,)))

    # Inside

    def _record(self, data: bytes) -> None:
        with self._watch.condition:
            kept = self._data
            kept += data
            if len(kept) > 2 * KEPT:
                cut = len(kept) - KEPT
                del kept[:cut]
                self._base += cut
            now = self._last_output = time.monotonic()
            wake = now - self._woken >= _LOOK
            if wake:
                self._woken = now
        if wake:
            self._watch.changed()

    def _expecting(
        self, pattern: Pattern, timeout: float | None, never: Iterable[Pattern]
    ) -> Waits[re.Match[Any]]:
        wanted = re.compile(pattern)
        unwanted = [re.compile(one) for one in never]
        deadline = deadline_of(timeout)
        what = f"the console was to show {wanted.pattern!r}"
        scanned = -1
        next_look = 0.0
        late = False

        def search() -> tuple[re.Pattern[Any], re.Match[Any]] | None:
            nonlocal scanned, next_look
            begun = time.monotonic()
            end = self._base + len(self._data)
            if end == scanned or (begun < next_look and not self._ending()):
                return None
            start = max(0, self._position - self._base)
            data = bytes(self._data[start:])
            found = _search(wanted, data)
            for one in unwanted:
                bad = _search(one, data)
                if bad is not None and (found is None or bad.start() < found.start()):
                    return one, bad
            if found is not None:
                # Bytes that are not UTF-8 are decoded so that encoding restores them.
                used = found.string[: found.end()]
                size = len(used if isinstance(used, bytes) else used.encode(errors="surrogateescape"))
                self._position = self._base + start + size
                return wanted, found
            scanned = end
            # A flood is looked through again and again: that takes a part of the time, not all of it.
            now = time.monotonic()
            next_look = now + max(_LOOK, _REST * (now - begun))
            until.deadline = next_look if deadline is None else min(next_look, deadline)
            return None

        until = Until(lambda: search() or self._ending(), deadline)
        while True:
            answer = yield until
            if isinstance(answer, tuple):
                regex, match = answer
                if regex is wanted:
                    return match  # type: ignore[no-any-return]
                raise UnwantedOutput(f"{what}, and shows {regex.pattern!r} before", match, self._tail())
            if answer:
                raise GuestEnded(what, answer, self._tail())
            if deadline is not None and time.monotonic() >= deadline:
                if late:
                    raise GuestTimeout(what, timeout or 0.0, self._tail())
                late, next_look = True, 0.0  # a last look
            elif scanned == self.mark():
                until.deadline = deadline

    def _settling(self, quiet: float, timeout: float | None) -> Waits[None]:
        deadline = deadline_of(timeout)
        what = f"the console was to be quiet for {quiet:g} s"
        while True:
            last = self._last_output
            silent = last + quiet
            if time.monotonic() >= silent:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise GuestTimeout(what, timeout or 0.0, self._tail())
            until = silent if deadline is None else min(silent, deadline)
            ending = yield Until(self._ending, until)
            if ending:
                raise GuestEnded(what, ending, self._tail())


def _search(regex: re.Pattern[Any], data: bytes) -> re.Match[Any] | None:
    if isinstance(regex.pattern, bytes):
        return regex.search(data)
    return regex.search(data.decode(errors="surrogateescape"))
