"""Text of others, made safe to show: a guest's, a helper program's, a peer's.

It may hold escape sequences that drive a terminal, newlines that forge a line of ours, any amount of data.
"""

from __future__ import annotations

#: Characters of one line that is shown, unless the caller says otherwise.
LIMIT = 300


def printable(text: str | bytes, limit: int = LIMIT) -> str:
    r"""*text* as one line of at most *limit* characters, with nothing in it that drives a terminal.

    Tabs and the ends of lines become single spaces; what ``str.isprintable`` refuses (control characters,
    directional marks, lone surrogates) becomes an escape such as ``\x1b``. Of what is longer the
    middle is left out: a sentence ends with what to do.
    """
    if len(text) > 4 * limit:  # however long it is, this is all that is looked at
        text = text[: 2 * limit] + text[-2 * limit :]  # type: ignore[operator]
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    line = text.strip()
    if not line.isprintable():
        pieces = line.replace("\t", "\n").replace("\r", "\n").split("\n")
        line = " ".join(piece.strip() for piece in pieces if piece.strip())
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= limit:
        return line
    end = (limit - 3) // 2
    return f"{line[: limit - 3 - end]}...{line[len(line) - end :]}"
