"""Tap interfaces, in a network namespace of the test's own: made, given by name and by descriptor; frames."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.net import tap as tap_module
from pyvmm.backends.net.base import CSUM, HEADER, TSO4, NetBackendError
from pyvmm.backends.net.tap import adopt, configure, open_queue, open_tap
from pyvmm.virtio.net.device import Net
from tests.support.namespace import network_namespace
from tests.support.net_driver import NetDriver, frame

#: <linux/if_tun.h>
TUNSETPERSIST = 0x400454CB


@pytest.fixture(autouse=True)
def _netns() -> Iterator[None]:
    if not os.path.exists(tap_module.DEVICE):
        pytest.skip(f"there is no {tap_module.DEVICE}")
    with network_namespace():
        yield


def link(name: str) -> dict[str, object]:
    """What netlink says of interface *name*; empty when it is not there."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        found = ip.link_lookup(ifname=name)
        if not found:
            return {}
        (message,) = ip.link("get", index=found[0])
        return {
            "up": bool(message["flags"] & 1),
            "carrier": bool(message["flags"] & 0x10000),
            **dict(message["attrs"]),
        }


def test_made_tap_is_up_with_mtu_and_address_and_goes_with_its_descriptor() -> None:
    tap = open_tap("pvtest", mtu=9000, address="192.0.2.1/24")
    state = link("pvtest")
    tap.close()

    assert state["up"] and state["IFLA_MTU"] == 9000
    assert link("pvtest") == {}


def test_name_with_a_number_left_open_gets_one() -> None:
    one, two = open_tap("pv%d"), open_tap("pv%d")

    assert (one.name, two.name) == ("pv0", "pv1")
    one.close()
    two.close()


def test_frames_go_between_the_driver_and_the_host() -> None:
    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0xB588) as host:
        host.bind(("pvtest", 0x88B5))
        host.settimeout(10)
        driver.give(*[2048] * 8)
        driver.send(frame(1000))
        out = host.recv(2000)
        host.send(frame(900))
        got: list[bytes] = []
        driver.run(lambda: got.extend(one for one in driver.received() if one[12:14] == b"\x88\xb5") or got)

    assert out == frame(1000)
    assert got == [frame(900)]


def test_tap_of_two_queues_attaches_those_in_use() -> None:
    tap = open_tap("pvtest", 2)
    with NetDriver(Net(tap, pairs=2)) as driver:
        assert driver.command(4, 0, b"\2\0") == 0
        assert driver.command(4, 0, b"\1\0") == 0
        assert driver.command(4, 0, b"\2\0") == 0


def test_link_pulled_out_shows_at_the_host() -> None:
    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver:
        before = link("pvtest")["carrier"]
        driver.device.set_link(False)

        assert (before, link("pvtest")["carrier"]) == (True, False)


def test_descriptor_of_an_open_tap_is_adopted_and_others_are_refused(tmp_path: Path) -> None:
    fd, name = open_queue("pvtest", False)
    tap = adopt([fd])
    configure(fd, CSUM | TSO4, HEADER)

    assert (tap.name, name) == ("pvtest", "pvtest")
    tap.close()
    with open(tmp_path / "file", "w") as file, pytest.raises(NetBackendError, match="no tap"):
        adopt([file.fileno()])


def test_tap_that_is_in_use_or_no_tap_says_so() -> None:
    tap = open_tap("pvtest")

    with pytest.raises(NetBackendError, match="in use"):
        open_tap("pvtest")
    with pytest.raises(NetBackendError, match="no tap"):
        open_tap("lo")
    with pytest.raises(NetBackendError, match="no name"):
        open_tap("a name with spaces")
    with pytest.raises(NetBackendError, match="there is no bridge"):
        open_tap("pvother", bridge="nosuch")
    tap.close()


def test_tap_that_is_kept_is_used_as_it_is_made() -> None:
    for name, multi in (("pvone", False), ("pvmany", True)):
        fd, _ = open_queue(name, multi)
        assert tap_module.ioctl(fd, TUNSETPERSIST, 1) == 0
        os.close(fd)

    with pytest.raises(NetBackendError, match="pvone has one queue"):
        open_tap("pvone", 2)
    one, many = open_tap("pvone"), open_tap("pvmany", 2)
    alone = not link("pvone")["up"]
    one.close()
    many.close()
    assert alone and link("pvone")
    open_tap("pvmany").close()


@pytest.mark.parametrize("buffers", [0, 64], ids=["without-buffers", "with-buffers"])
def test_tap_deleted_under_a_running_driver_takes_its_link_down_and_nothing_else(buffers: int) -> None:
    from pyroute2 import IPRoute

    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver:
        driver.give(*[2048] * buffers)
        driver.loop.run_once(0)  # the kernel's own first frames, which find no buffers or take some
        with IPRoute() as ip:
            ip.link("del", index=ip.link_lookup(ifname="pvtest")[0])
        driver.run(lambda: driver.config(6, 2) == 0)

        assert driver.send(frame(60)).done
        assert not driver.status & 64
