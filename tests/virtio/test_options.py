"""From a user's words to a device: each wrong word named, with what would be right."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import pytest

from pyvmm.backends.host_objects import HostObjects
from pyvmm.config import DEVICE_KINDS, Config, DeviceOptions
from pyvmm.errors import ConfigError
from pyvmm.virtio.options import OptionReader, make_device, make_devices
from pyvmm.virtio.rng.device import Rng


def words(**values: str | bool) -> OptionReader:
    return OptionReader(DeviceOptions("rng", dict(values)))


def test_make_device_when_words_are_right_gives_the_device() -> None:
    device = make_device(DeviceOptions("rng", {}))
    device.close()

    assert isinstance(device, Rng)


def test_make_device_when_a_word_is_left_over_names_it() -> None:
    with pytest.raises(ConfigError, match="--rng: 'speed' is unknown; it has no options"):
        make_device(DeviceOptions("rng", {"speed": "9"}))


#: By a kind: a device with options of every sort, without those that need root; a program that it needs.
ASKED = [
    ("disk", "{}/disk,create=1M,format=raw,serial=x,queues=2,cache=unsafe,block-size=512", ""),
    ("disk", "{}/image,create=1M,snapshot", "qemu-nbd"),
    ("hvc", "pty,name=x,port", ""),
    ("net", "none,mac=52:54:00:12:34:56,mtu=1400,pcap={}/frames,pcap-limit=1M", ""),
    ("net", "link:{}/link,mtu=1400", ""),
    ("net", "switch:options,queues=2", ""),
    ("net", "user,host-loopback,mtu=1400", "passt"),
    ("vsock", "7,path={}/vsock", ""),
    ("balloon", "target=1M,stats=5s,reporting,deflate-on-oom", ""),
]


@pytest.mark.parametrize(("kind", "text", "program"), ASKED)
def test_device_of_the_next_machine_is_made_of_the_same_options(
    tmp_path: Path, kind: str, text: str, program: str
) -> None:
    if program and shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    options = DEVICE_KINDS[kind].parse(text.format(tmp_path))
    keeper = HostObjects()
    try:
        found = []
        for _ in range(2):
            (device,) = make_devices([options], host_objects=keeper)
            found.append((type(device), device.features, device.queue_sizes, device.config.fields()))
            device.close()
    finally:
        keeper.close()

    assert found[0] == found[1]


def test_nothing_is_opened_for_options_with_one_too_many(tmp_path: Path) -> None:
    for kind, text, _ in ASKED:
        with pytest.raises(ConfigError, match="'colour' is unknown"):
            for _ in make_devices([DEVICE_KINDS[kind].parse(f"{text.format(tmp_path)},colour=red")]):
                pass

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_kinds_when_in_config_have_a_module_that_makes_them(kind: str) -> None:
    assert callable(import_module(DEVICE_KINDS[kind].maker).from_options)


def test_text_when_given_without_a_value_says_how() -> None:
    with pytest.raises(ConfigError, match=r"--rng: path needs a value: path=\.\.\."):
        words(path=True).text("path")


@pytest.mark.parametrize("given", [{}, {"path": ""}])
def test_need_when_missing_or_empty_says_so(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--rng: path is missing"):
        words(**given).need("path")


@pytest.mark.parametrize(
    ("value", "want"),
    [(True, True), ("on", True), ("yes", True), ("true", True), ("1", True), ("off", False), ("0", False)],
)
def test_flag_when_alone_or_with_a_word_is_on_or_off(value: str | bool, want: bool) -> None:
    assert words(ro=value).flag("ro") is want


def test_flag_when_missing_has_its_default() -> None:
    assert [words().flag("ro"), words().flag("ro", True)] == [False, True]


def test_flag_when_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(ConfigError, match="--rng: ro=maybe is neither on nor off"):
        words(ro="maybe").flag("ro")


@pytest.mark.parametrize(("text", "want"), [("0", 0), ("12", 12), ("0x10", 16)])
def test_number_when_decimal_or_hexadecimal_is_taken(text: str, want: int) -> None:
    assert words(queues=text).number("queues") == want


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("many", "queues=many is not a number"), ("-1", "must be from 0 to 8"), ("9", "must be from 0 to 8")],
)
def test_number_when_none_or_out_of_range_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        words(queues=text).number("queues", high=8)


def test_size_when_given_has_units() -> None:
    assert words(size="64M").size("size") == 64 << 20


def test_choice_when_not_offered_lists_what_is() -> None:
    with pytest.raises(ConfigError, match="type=tun is not offered; choose tap, user"):
        words(type="tun").choice("type", ("tap", "user"))


def test_finish_when_a_word_is_left_over_lists_the_known_ones() -> None:
    asked = words(path="x", sped="9")
    asked.need("path")
    asked.flag("ro")

    with pytest.raises(ConfigError, match="--rng: 'sped' is unknown; it knows path, ro"):
        asked.finish()


def test_rest_when_taken_leaves_nothing_over() -> None:
    asked = words(a="1", b=True)

    assert asked.rest() == {"a": "1", "b": True}
    asked.finish()


# Config's part: the form of the words


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a=1,b", {"a": "1", "b": True}),
        ("a=x,,y,b=z", {"a": "x,y", "b": "z"}),
        ("a==,b=c=d", {"a": "=", "b": "c=d"}),
        ("a=", {"a": ""}),
    ],
)
def test_parse_when_well_formed_gives_keys_and_values(text: str, want: dict[str, str | bool]) -> None:
    assert DEVICE_KINDS["rng"].parse(text).values == want


@pytest.mark.parametrize(
    ("kind", "text", "want"),
    [
        ("disk", "path=:a,b=c,,d", {"path": "a,b=c,,d"}),
        ("disk", "a,backing=b,,c,backing=:d,ro", {"path": "a", "backing": ("b,c", "d,ro")}),
        ("disk", "path=:", {"path": ""}),
        ("disk", "serial=:a,ro", {"serial": ":a", "ro": True}),
        ("disk", "a,,path=:b", {"path": "a,path=:b"}),
        ("vhost_user", "type=rng,socket=:/a,uid=0", {"type": "rng", "socket": "/a,uid=0"}),
    ],
)
def test_parse_when_a_files_name_stands_behind_a_colon_takes_all_of_it(
    kind: str, text: str, want: dict[str, str | bool]
) -> None:
    assert DEVICE_KINDS[kind].parse(text).values == want


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "empty word"), ("a,", "empty word"), ("=x", "empty word"), ("a,a=1", "gives a twice")],
)
def test_parse_when_malformed_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DEVICE_KINDS["rng"].parse(text)


@pytest.mark.parametrize(
    ("value", "count"), [(True, 1), (False, 0), ([True, True], 2), ({}, 1), ([{}, True, False], 2), ([], 0)]
)
def test_config_when_kinds_are_asked_for_has_a_device_each(value: object, count: int) -> None:
    assert len(Config(rng=value).devices) == count


@pytest.mark.parametrize("value", [1, None, 1.5, "", [""], [1], {"a": [1]}, "a\0b"])
def test_config_when_a_device_is_asked_for_in_another_form_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="rng: "):
        Config(rng=value)


def test_config_when_replaced_keeps_its_devices() -> None:
    assert len(Config(rng=[True, True]).replace(cpus=2).devices) == 2
