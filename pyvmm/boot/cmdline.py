"""The kernel command line: its parameters, and where further ones go.

The grammar is Linux's (lib/cmdline.c, next_arg; kernel/params.c, parse_args): white space separates
parameters, but not between quotation marks, which may begin anywhere in one; behind a parameter ``--``
are arguments of init.
"""

from __future__ import annotations

from pyvmm.boot.errors import DoesNotFitError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPACES = " \t\n\v\f\r"
_QUOTE = '"'
#: Behind it are arguments of init.
_END = "--"


def parameters(cmdline: str) -> list[str]:
    """The kernel's parameters in *cmdline*, up to ``--``, each without its quotation marks."""
    found = []
    for start, end in _words(cmdline):
        word = _unquoted(cmdline[start:end])
        if word == _END:
            break
        found.append(word)
    return found


def add(cmdline: str, further: Sequence[str]) -> str:
    """*cmdline* with *further* parameters, before ``--`` and before one whose quotation does not end."""
    at = len(cmdline)
    for start, end in _words(cmdline):
        word = cmdline[start:end]
        if _unquoted(word) == _END or word.count(_QUOTE) % 2:
            at = start
            break
    return " ".join(filter(None, [cmdline[:at].rstrip(_SPACES), *further, cmdline[at:]]))


def one_line(cmdline: str) -> str:
    """*cmdline*, which a board file may have in several lines, as one.

    A line end with the white space around it becomes a space, but not between quotation marks; none is left
    at the beginning and the end.
    """
    if "\n" not in cmdline and "\r" not in cmdline:
        return cmdline
    import re  # few command lines need it

    parts = cmdline.split(_QUOTE)
    parts[::2] = [re.sub(r"[ \t\v\f]*[\r\n][ \t\n\v\f\r]*", " ", part) for part in parts[::2]]
    parts[0] = parts[0].lstrip(_SPACES)
    if len(parts) % 2:
        parts[-1] = parts[-1].rstrip(_SPACES)
    return _QUOTE.join(parts)


def encoded(cmdline: str, limit: int | None = None) -> bytes:
    """The bytes of *cmdline*, without the zero that ends it.

    *limit*: bytes that the kernel accepts, without the zero; None for any number. Raises DoesNotFitError
    beyond it, since a kernel would truncate the line silently, and ImageError for a line with a zero byte.
    """
    text = cmdline.encode("utf-8", "surrogateescape")
    if b"\0" in text:
        raise ImageError("the kernel command line contains a zero byte, which would end it; remove it")
    if limit is not None and len(text) > limit:
        raise DoesNotFitError(
            f"the kernel command line has {len(text)} bytes, but at most {limit} are possible; shorten it "
            "(what pyvmm adds to it, such as virtio devices, counts)"
        )
    return text


def _words(cmdline: str) -> Iterator[tuple[int, int]]:
    """Start and end of each parameter."""
    start = -1
    quoted = False
    for at, character in enumerate(cmdline):
        if character in _SPACES and not quoted:
            if start >= 0:
                yield start, at
            start = -1
            continue
        if start < 0:
            start = at
        quoted ^= character == _QUOTE
    if start >= 0:
        yield start, len(cmdline)


def _unquoted(word: str) -> str:
    """A parameter without the quotation marks around it or around its value."""
    if word.startswith(_QUOTE):
        word = word[1:].removesuffix(_QUOTE)
    name, equals, value = word.partition("=")
    if value.startswith(_QUOTE):
        value = value[1:].removesuffix(_QUOTE)
    return name + equals + value
