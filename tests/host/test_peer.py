"""Who is at the other end of a socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pyvmm.host.peer import credentials, stranger
from tests.support.other_user import UID, listening, needs_root


def test_own_process_is_no_stranger(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as link:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        link.connect(str(tmp_path / "s"))

        assert credentials(link) == (os.getpid(), os.geteuid())
        assert stranger(link) == ""


@needs_root
def test_other_user_is_one_unless_allowed(tmp_path: Path) -> None:
    with listening(tmp_path / "s"), socket.socket(socket.AF_UNIX) as link:
        link.connect(str(tmp_path / "s"))

        assert stranger(link) == f"user {UID} listens there, neither you nor root"
        assert stranger(link, UID) == ""
