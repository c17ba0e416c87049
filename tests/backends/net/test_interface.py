"""What a tap's guest learns of the host's interface: MTU, carrier, speed, offloads."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from ctypes import addressof, create_string_buffer, set_errno
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pyvmm.backends.net import tap as tap_module
from pyvmm.backends.net.base import ALL_OFFLOADS, CSUM, ECN
from pyvmm.backends.net.interface import Interface
from pyvmm.backends.net.tap import adopt, open_queue, open_tap
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.net.features import F_GUEST_ECN, F_HOST_ECN, F_MTU, F_SPEED_DUPLEX
from tests.support.interface import change, set_speed
from tests.support.namespace import network_namespace
from tests.support.net_driver import NetDriver, frame

#: <linux/if_tun.h>
TUNSETPERSIST = 0x400454CB
#: Offsets in the configuration space (5.1.4).
STATUS, MTU, SPEED, DUPLEX = 6, 10, 12, 16
UNKNOWN = (0xFFFF_FFFF, 0xFF)


@pytest.fixture(autouse=True)
def _netns() -> Iterator[None]:
    if not os.path.exists(tap_module.DEVICE):
        pytest.skip(f"there is no {tap_module.DEVICE}")
    with network_namespace():
        yield


def keep(name: str, **keys: object) -> None:
    """A tap that stays, as ``ip tuntap add`` makes one, with these properties."""
    fd, _ = open_queue(name, False)
    assert tap_module.ioctl(fd, TUNSETPERSIST, 1) == 0
    os.close(fd)
    change(name, **keys)


def link_is(driver: NetDriver, up: bool) -> None:
    """Turn the device's loop until the driver sees the link so."""
    driver.run(lambda: driver.config(STATUS, 2) == int(up))


def test_mtu_of_a_tap_that_was_there_is_the_guests() -> None:
    keep("pvtest", mtu=9000, state="up")

    with NetDriver(Net(open_tap("pvtest"))) as driver:
        assert driver.offered() & F_MTU
        assert driver.config(MTU, 2) == 9000


def test_mtu_asked_for_is_the_guests_whatever_the_tap_has() -> None:
    keep("pvtest", mtu=9000, state="up")

    with NetDriver(Net(open_tap("pvtest"), mtu=1400)) as driver:
        assert driver.config(MTU, 2) == 1400


def test_mtu_of_ethernet_is_not_offered_so_that_the_guest_may_raise_its_own() -> None:
    with NetDriver(Net(open_tap("pvtest"))) as driver:
        assert not driver.offered() & F_MTU


def test_mtu_of_a_made_tap_is_its_bridges_which_stays_as_it_is() -> None:
    with IPRoute() as ip:
        ip.link("add", ifname="pvbridge", kind="bridge")
    change("pvbridge", mtu=4000, state="up")

    tap = open_tap("pvtest", bridge="pvbridge")

    found = Interface("pvbridge")
    assert (tap.mtu, found.state.mtu) == (4000, 4000)
    found.close()
    tap.close()


def test_tap_set_down_and_up_on_the_host_takes_the_guests_link_with_it() -> None:
    keep("pvtest")  # not up yet
    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        link_is(driver, up=False)
        change("pvtest", state="up")
        link_is(driver, up=True)
        change("pvtest", state="down")
        link_is(driver, up=False)
        change("pvtest", state="up")
        link_is(driver, up=True)

        host.bind(("pvtest", 0x88B5))
        host.settimeout(10)
        driver.give(*[2048] * 8)
        driver.send(frame(1000))
        assert host.recv(2000) == frame(1000)
        host.send(frame(900))
        driver.run(lambda: frame(900) in driver.received())


def test_link_pulled_out_and_plugged_in_by_the_vmm_comes_back() -> None:
    with NetDriver(Net(open_tap("pvtest"))) as driver:
        link_is(driver, up=True)
        driver.device.set_link(False)
        link_is(driver, up=False)
        driver.device.set_link(True)
        link_is(driver, up=True)


def test_change_of_the_link_between_two_machines_is_seen_by_the_next() -> None:
    tap = open_tap("pvtest")
    tap.kept = True
    with NetDriver(Net(tap)) as driver:
        link_is(driver, up=True)
    change("pvtest", state="down")
    with NetDriver(Net(tap)) as driver:
        link_is(driver, up=False)
        change("pvtest", state="up")
        link_is(driver, up=True)
    tap.close()


def test_change_of_the_link_comes_with_the_devices_lock_held() -> None:
    """A vCPU may be sending at that time."""
    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver:
        held, change_link = list[bool](), tap.on_change
        assert change_link is not None
        tap.on_change = lambda: [held.append(driver.device.runtime.lock.locked()), change_link()]
        change("pvtest", state="down")
        link_is(driver, up=False)

    assert held == [True]


def test_carrier_taken_from_the_tap_by_the_host_is_taken_from_the_guest() -> None:
    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver:
        tap.set_carrier(False)  # what `ip link set pvtest carrier off` does
        link_is(driver, up=False)
        tap.set_carrier(True)
        link_is(driver, up=True)


def test_speed_set_on_the_tap_is_the_guests_from_the_next_change_of_the_link_on() -> None:
    keep("pvtest", state="up")
    set_speed("pvtest", 2500, 1)
    tap = open_tap("pvtest")
    with NetDriver(Net(tap)) as driver:
        seen = [(driver.config(SPEED, 4), driver.config(DUPLEX, 1))]
        set_speed("pvtest", 100_000, 0)
        driver.device.set_link(False)
        seen.append((driver.config(SPEED, 4), driver.config(DUPLEX, 1)))
        set_speed("pvtest", 10, 1)  # what Linux before 6.3 says of each tap
        driver.device.set_link(True)
        seen.append((driver.config(SPEED, 4), driver.config(DUPLEX, 1)))

        assert driver.offered() & F_SPEED_DUPLEX
    assert seen == [(2500, 1), (100_000, 0), UNKNOWN]


def test_descriptor_of_a_tap_in_another_namespace_has_no_properties_of_one_of_the_same_name_here() -> None:
    def elsewhere() -> int:
        with network_namespace():
            fd, _ = open_queue("pvtest", False)
            return fd

    fd = elsewhere()
    keep("pvtest", mtu=9000)  # of another kind in each respect

    tap = adopt([fd])

    assert (tap.mtu, tap.carrier, tap.has_speed) == (None, True, False)
    tap.close()


def macvtap(name: str, lower: str, folder: Path) -> int:
    """The descriptor of a macvtap on interface *lower*; skips where none can be made."""
    with IPRoute() as ip:
        try:
            ip.link("add", ifname=name, kind="macvtap", link=ip.link_lookup(ifname=lower)[0])
        except NetlinkError as error:
            pytest.skip(f"needs a macvtap: {error}")
    node, sysfs = folder / "tap", folder / "sys"
    sysfs.mkdir()
    # That of this network namespace, which the one in /sys is not.
    if subprocess.run(["mount", "-t", "sysfs", "none", sysfs], check=False).returncode:
        pytest.skip("needs a sysfs of this network namespace")
    try:
        (number,) = sysfs.glob(f"class/net/{name}/macvtap/tap*/dev")
        major, minor = map(int, number.read_text().split(":"))
    finally:
        subprocess.run(["umount", sysfs], check=True)
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(major, minor))
    fd = os.open(node, os.O_RDWR)
    flags = tap_module.IFF_TAP | tap_module.IFF_NO_PI | tap_module.IFF_VNET_HDR
    request = create_string_buffer(struct.pack("=16sH22x", name.encode(), flags))
    assert tap_module.ioctl(fd, tap_module.TUNSETIFF, addressof(request)) == 0
    return fd


def test_macvtap_has_what_its_uplink_has(tmp_path: Path) -> None:
    with IPRoute() as ip:
        ip.link("add", ifname="pvup", kind="veth", peer="pvfar")
    change("pvup", mtu=3000, state="up")
    fd = macvtap("pvtest", "pvup", tmp_path)
    change("pvtest", state="up")
    with NetDriver(Net(adopt([fd]))) as driver:
        link_is(driver, up=False)  # the other end of the uplink's cable is down
        change("pvfar", state="up")
        link_is(driver, up=True)
        seen = driver.config(MTU, 2), driver.config(SPEED, 4)
        change("pvfar", state="down")
        link_is(driver, up=False)

    assert seen == (3000, 10_000)  # veth's


def test_offloads_are_those_that_the_kernel_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tap_module.ioctl

    def without_ecn(fd: int, request: int, argument: int) -> int:
        if request == tap_module.TUNSETOFFLOAD and argument & ECN:
            set_errno(22)
            return -1
        return real(fd, request, argument)

    whole = open_tap("pvwhole")
    monkeypatch.setattr(tap_module, "ioctl", without_ecn)
    some = open_tap("pvsome")
    device = Net(some)

    assert (whole.offloads, some.offloads) == (ALL_OFFLOADS, ALL_OFFLOADS & ~ECN)
    assert not device.features & (F_HOST_ECN | F_GUEST_ECN) and some.offloads & CSUM
    device.close()
    whole.close()


def test_kernel_that_told_more_than_fits_is_asked_again() -> None:
    keep("pvtest", mtu=2000)
    interface = Interface("pvtest")
    with socket.socket(fileno=os.dup(interface.fd)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for mtu in range(2001, 2041):
        change("pvtest", mtu=mtu)

    there = interface.refresh()

    assert (there, interface.state.mtu) == (True, 2040)
    interface.close()
