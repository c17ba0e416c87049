"""A 16550 whose registers lie further apart."""

from __future__ import annotations

import pytest

from pyvmm.devices.serial import LCR, LSR, SCR, THR
from pyvmm.devices.spaced import Spaced
from tests.support.serial_port import Host, Port


@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_register_when_spaced_is_reached_by_an_access_of_any_width(shift: int, size: int) -> None:
    port = Port()
    spaced = Spaced(port, shift)

    spaced.write(SCR << shift, size, 0x1A5 & (1 << 8 * size) - 1)

    assert (port[SCR], spaced.read(SCR << shift, size)) == (0xA5, 0xA5)
    assert spaced.read(LSR << shift, size) == 0x60


def test_port_when_spaced_has_its_backend_observers_and_state() -> None:
    port, host = Port(connected=False), Host()
    spaced, seen = Spaced(port, 2), []
    spaced.connect(host)
    spaced.tap(seen.append)

    spaced.write(THR << 2, 4, ord("a"))
    spaced.write(LCR << 2, 4, 3)
    state = spaced.save()
    spaced.reset()

    assert (host.sent, seen, spaced.read(LCR << 2, 1)) == (b"a", [b"a"], 0)
    spaced.load(state)
    assert spaced.read(LCR << 2, 1) == 3
    spaced.close()
