"""A link to the guest's exec server, which runs on this machine."""

from __future__ import annotations

import pytest

from tests.support.exec_link import Link
from tests.support.exec_server import channel, server_program

__all__ = ["channel", "server_program"]


@pytest.fixture
def link(channel):
    return Link(channel[0])
