"""A stand-in for apt: two programs that answer from a folder of packages and count their calls."""

from __future__ import annotations

import io
import lzma
import os
import tarfile

SCRIPT = """#!/bin/sh
echo "$0 $*" >> {log}
name="${{0##*/}}"
case "$name $3" in
"apt-get update") exec cat {store}/update >&2 ;;
"apt-get download") why="Failed to fetch it"; cp {store}/"${{5%%=*}}".deb . 2>/dev/null && exit ;;
"apt-get install") why="Unable to locate package"; cat {store}/choice 2>/dev/null && exit ;;
"apt-cache show") why="No packages found"; cat {store}/"$5" 2>/dev/null && exit ;;
esac
echo "E: $why" >&2
exit 100
"""


class Apt:
    """The stand-in's folder of packages, and the calls made."""

    def __init__(self, folder, monkeypatch):
        self._store = folder / "store"
        self._log = folder / "log"
        programs = folder / "bin"
        self._store.mkdir()
        programs.mkdir()
        self._log.touch()
        (self._store / "update").touch()
        for name in ("apt-get", "apt-cache"):
            (programs / name).write_text(SCRIPT.format(log=self._log, store=self._store))
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    @property
    def calls(self):
        """The calls: program and first argument."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [f"{os.path.basename(words[0])} {words[3]}" for words in lines]

    def offer(self, name, version="1.0", depends="", members=()):
        """A package; *members* are (name, content).

        A content of None is a directory, a text a symbolic link, a tuple of a text a hard link.
        """
        text = f"Package: {name}\nVersion: {version}\nDescription: a package\n which: has more lines\n"
        (self._store / name).write_text(text + (f"Depends: {depends}\n" if depends else ""))
        (self._store / f"{name}.deb").write_bytes(make_deb(members))

    def chooses(self, text):
        """What a simulated installation prints."""
        (self._store / "choice").write_text(text)

    def lose(self, name):
        """Remove the package file; the lists still have its entry."""
        (self._store / f"{name}.deb").unlink()


def make_deb(members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in [("./", None), *members]:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif isinstance(content, tuple):
                info.type, info.linkname = tarfile.LNKTYPE, *content
            else:
                info.size = len(content)
                info.mode = 0o755
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    parts = [("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(bytes(10240)))]
    parts.append(("data.tar.xz", lzma.compress(data.getvalue())))
    archive = b"!<arch>\n"
    for name, content in parts:
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        archive += b"\n" * (len(content) % 2)
    return archive
