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

#: Bytes of a match that ``expect`` finds for certain, wherever it lies in the output.
MATCH_MAX = 4096

#: Seconds between two times that output wakes who waits; ``expect`` looks once more after that, and begins
#: no other window when it has searched for so long.
_LOOK = 0.01
#: The same for the look after the deadline.
_LAST_LOOK = 1.0
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

        A match of at most 4096 bytes is found wherever it lies; a longer one may be missed or cut off.
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
        search = _Search(pattern, never)
        wanted = search.wanted
        deadline = deadline_of(timeout)
        what = f"the console was to show {wanted.pattern!r}"
        while True:
            begun = time.monotonic()
            late = deadline is not None and begun >= deadline
            ending = self._ending()  # before the look: then that one sees all there was
            found = self._look(search, begun + (_LAST_LOOK if late else _LOOK))
            if found is not None:
                regex, match = found
                if regex is wanted:
                    return match
                raise UnwantedOutput(f"{what}, and shows {regex.pattern!r} before", match, self._tail())
            if ending and search.complete:
                raise GuestEnded(what, ending, self._tail())
            if late:
                raise GuestTimeout(what, timeout or 0.0, self._tail())
            # A flood is looked through again and again: that takes a part of the time, not all of it.
            now = time.monotonic()
            rest = now + max(_LOOK, _REST * (now - begun))
            yield Until(self._ending, rest if deadline is None else min(rest, deadline))
            if search.complete:
                yield Until(lambda: search.end != self._base + len(self._data) or self._ending(), deadline)

    def _look(self, search: _Search, limit: float) -> tuple[re.Pattern[Any], re.Match[Any]] | None:
        """The first match in what *search* has not looked at; None also when *limit* passed before the end.

        The search is made without the condition, which vCPUs wait for that print.
        """
        while True:
            with self._watch.condition:
                start = max(self._position, self._base)
                data = bytes(self._data[start - self._base :])
            found = search.look(start, data, limit)
            if found is None or found[0] is not search.wanted:
                return found
            with self._watch.condition:
                if self._position <= start:
                    self._position = start + _size(found[1].string, found[1].end())
                    return found
            # Another thread's ``expect`` has gone past it.

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


class _Search:
    """What one ``expect`` looks for, and how far it has come.

    The guest chooses the output, and a search may take time that grows with the square of what it is given:
    it is given a window of ``2 * MATCH_MAX`` at a time.
    """

    def __init__(self, pattern: Pattern, never: Iterable[Pattern]) -> None:
        self.wanted: re.Pattern[Any] = re.compile(pattern)
        #: The mark up to which the output was there at the last look, and whether it was all looked at.
        self.end = -1
        self.complete = False
        self._regexes = (self.wanted, *(re.compile(one) for one in never))
        self._begin = 0  # the mark of the first byte at which a match may begin

    def look(self, start: int, data: bytes, limit: float) -> tuple[re.Pattern[Any], re.Match[Any]] | None:
        """The first match in *data*, which begins at the mark *start*; at least one window is looked at."""
        begin = max(0, self._begin - start)
        # Bytes that are not UTF-8 are decoded so that encoding restores them.
        views: dict[type, tuple[Any, int]] = {}
        for kind in {type(regex.pattern) for regex in self._regexes}:
            if kind is bytes:
                views[kind] = data, begin
            else:
                views[kind] = _decoded(data), len(_decoded(data[:begin]))
        self.end = start + len(data)
        self.complete = False
        passed = 0
        while True:
            found = self._in_window(views, passed)
            if found is not None:
                return found
            passed += MATCH_MAX
            if all(at + passed + MATCH_MAX >= len(text) for text, at in views.values()):
                self.complete = True
                self._begin = max(start, self.end - MATCH_MAX)
                return None
            if time.monotonic() >= limit:
                self._begin = start + min(_size(text, at + passed) for text, at in views.values())
                return None

    def _in_window(
        self, views: dict[type, tuple[Any, int]], passed: int
    ) -> tuple[re.Pattern[Any], re.Match[Any]] | None:
        """The first match in one window; the wanted one before an unwanted one at the same place."""
        first: tuple[int, re.Pattern[Any], re.Match[Any]] | None = None
        for regex in self._regexes:
            text, at = views[type(regex.pattern)]
            at += passed
            match = regex.search(text, at, at + 2 * MATCH_MAX)
            # What begins in the second half is in the first half of the next window, where it is whole.
            if match is None or (match.start() >= at + MATCH_MAX and at + 2 * MATCH_MAX < len(text)):
                continue
            place = _size(text, match.start())
            if first is None or place < first[0]:
                first = place, regex, match
        return first and first[1:]


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _size(text: str | bytes, end: int) -> int:
    """Bytes of ``text[:end]``."""
    used = text[:end]
    return len(used if isinstance(used, bytes) else used.encode(errors="surrogateescape"))
