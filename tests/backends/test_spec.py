"""The values of --console."""

from __future__ import annotations

import pytest

from pyvmm.backends.base import Detached
from pyvmm.backends.fifo import Fifo
from pyvmm.backends.file import OutputFile
from pyvmm.backends.pty import Pty
from pyvmm.backends.spec import make_backend
from pyvmm.backends.terminal import Terminal
from pyvmm.backends.unix import UnixSocket
from pyvmm.errors import ConfigError


@pytest.mark.parametrize(
    ("spec", "kind", "description"),
    [
        ("none", Detached, "none"),
        ("stdio", Terminal, ""),
        ("pty", Pty, "pty "),
        ("socket:/tmp/s", UnixSocket, "socket /tmp/s"),
        ("file:/tmp/f", OutputFile, "file /tmp/f"),
        ("append:a:b", OutputFile, "file a:b"),
        ("pipe:/tmp/p", Fifo, "pipe /tmp/p"),
    ],
)
def test_spec_names_its_backend(spec, kind, description):
    backend = make_backend(spec)
    assert type(backend) is kind
    assert backend.describe().startswith(description)


@pytest.mark.parametrize(
    "spec", ["", "tty", "stdio:", "none:x", "pty:1", "file", "file:", "socket:", "file:a\0b"]
)
def test_spec_that_is_none_is_refused_in_one_sentence(spec):
    with pytest.raises(ConfigError, match=r"^--console: ") as caught:
        make_backend(spec)
    assert "\n" not in str(caught.value)


def test_null_backend_swallows_everything():
    backend = make_backend("none")
    backend.attach(None, None, None)
    backend.write(b"x" * 1000)
    backend.resume()
    backend.close()
    assert (backend.ready, backend.dropped) == (True, 0)
