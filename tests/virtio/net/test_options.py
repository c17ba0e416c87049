"""The words of --net."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS
from pyvmm.errors import ConfigError
from pyvmm.virtio.net.device import Net
from pyvmm.virtio.net.features import F_MTU
from pyvmm.virtio.options import make_device
from tests.support.net_driver import NetDriver


def made(text: str, machine: str = "guest") -> Net:
    device = make_device(DEVICE_KINDS["net"].parse(text), machine)
    assert isinstance(device, Net)
    return device


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("carrier-pigeon", "is not offered; choose tap, user, switch:NAME"),
        ("switch", "is not offered"),
        ("link:", "is not offered"),
        ("none,mac=52:54:00:12:34", "no address of one station"),
        ("none,mac=01:54:00:12:34:56", "no address of one station"),
        ("none,mac=00:00:00:00:00:00", "no address of one station"),
        ("none,mtu=67", "must be from 68 to 65535"),
        ("none,mtu=65536", "must be from 68 to 65535"),
        ("none,queues=2", "'queues' is unknown"),
        ("none,colour=blue", "'colour' is unknown"),
        ("switch:a,queues=0", "must be from 1 to 128"),
        ("user,hostfwd=80", "write tcp:8080:80"),
        ("tap,fd=x", "is not a descriptor"),
        ("tap,fd=3:4", "are 2 queues; write queues=2"),
        ("tap,fd=3,ifname=tap0", "leave ifname, bridge and address out"),
        ("none,pcap=/nowhere/at/all", "choose another file"),
    ],
)
def test_words_when_they_are_wrong_say_which(text: str, says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        made(text)
    assert isinstance(caught.value, ConfigError) or "pcap" in text


def test_words_when_all_are_given_are_in_the_device(tmp_path: Path) -> None:
    path = tmp_path / "net.pcap"
    device = made(f"switch:spec,mac=52:54:00:12:34:56,mtu=9000,queues=2,pcap={path},pcap-limit=1M")
    with NetDriver(device) as driver:
        assert driver.device.mac == bytes.fromhex("525400123456")
        assert (driver.config(8, 2), driver.config(10, 2)) == (2, 9000)
    assert path.stat().st_size == 24


@pytest.mark.parametrize("kind", ["none", "switch:mtu", "link:{folder}/cable", "user"])
def test_mtu_is_the_guests_with_every_backend(tmp_path: Path, kind: str) -> None:
    if kind == "user" and shutil.which("passt") is None:
        pytest.skip("there is no passt (Debian: apt-get install passt)")
    device = made(f"{kind.format(folder=tmp_path)},mtu=4000")
    try:
        assert device.features & F_MTU
        assert device.config.mtu == 4000
    finally:
        device.close()


def test_address_that_is_not_given_belongs_to_the_machines_name() -> None:
    found = []
    for machine in ("one", "one", "two"):
        with NetDriver(made("none", machine)) as driver:
            found.append(driver.device.mac)

    assert found[0] == found[1] != found[2]
