"""What a user asks for, checked key by key; the tables of keys and kinds, and those who read them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.cli.run import OPTIONS
from pyvmm.config import DEVICE_KINDS, Config, DeviceOptions, MemoryPart
from pyvmm.config.keys import GROUPS, KEYS
from pyvmm.config.keywords import AllConfigKeywords, ConfigKeywords
from pyvmm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_config_without_keys_has_one_cpu_and_256_mib() -> None:
    config = Config()

    assert (config.cpus, config.memory_size, config.console) == (1, 256 << 20, "stdio")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"kernle": "x"}, "'kernle' is not a key"),
        ({"cpus": 0}, "cpus: 0 must be"),
        ({"cpus": 255}, "cpus: 255 must be"),
        ({"cpus": True}, "cpus: True must be"),
        ({"cpus": "2"}, "cpus: '2' must be"),
        ({"memory": "-5M"}, "memory: '-5M'"),
        ({"memory": "64K"}, "out of range"),
        ({"memory": "128T"}, "out of range"),
        ({"memory": []}, "out of range"),
        ({"memory": 4097 << 10 | 1}, "multiple of 4096"),
        ({"memory": [{"size": "1M", "backing": "tape"}]}, "'tape' is not offered"),
        ({"memory": [{"size": "1M", "backing": "file"}]}, "a path goes with backing file"),
        ({"memory": [{"size": "1M", "path": "/x"}]}, "a path goes with backing file"),
        ({"memory": [{"sise": "1M"}]}, "a part has size"),
        ({"memory": [{"size": [1]}]}, "is not a size"),
        ({"initrd": "x"}, "initrd and boot need a kernel"),
        ({"kernel": "k", "firmware": "f"}, "exclude each other"),
        ({"modules": "m"}, "modules needs the kernel image"),
        ({"modules": "m", "kernel": "host"}, "modules needs the kernel image"),
        ({"modules": "m", "firmware": "f"}, "modules needs the kernel image"),
        ({"firmware": "f", "exec": "true"}, "exec needs a Linux kernel"),
        ({"kernel": ""}, "kernel: '' must be"),
        ({"kernel": 5}, "kernel: 5 must be"),
        ({"kernel": "a\0b"}, "NUL byte"),
        ({"boot": "grub"}, "boot: 'grub' is not offered"),
        ({"virtio_cmdline": True}, "virtio_cmdline: True is not offered; choose auto, on, off"),
        ({"virtio_cmdline": "on", "firmware": "f"}, "virtio_cmdline needs a kernel"),
        ({"on_reboot": "panic"}, "on_reboot: 'panic' is not offered"),
        ({"timeout": 0}, "timeout: 0 is out of range"),
        ({"timeout": True}, "timeout: True is not a duration"),
        ({"debug_exit": 70000}, "debug_exit: 70000 must be a port"),
        ({"debug_exit": True}, "debug_exit: True must be a port"),
    ],
)
def test_config_refuses_and_names_the_key(keys: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**keys)

    assert sentence in str(caught.value)


def test_config_with_debug_exit_false_has_no_port() -> None:
    assert Config(debug_exit=False).debug_exit is None


def test_replace_changes_only_what_is_named() -> None:
    config = Config(kernel="k", cpus=2).replace(cpus=3)

    assert (config.kernel, config.cpus) == ("k", 3)


def test_from_toml_reads_keys_and_takes_paths_from_the_files_folder(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text(
        'kernel = "vmlinuz"\ninitrd = "a.cpio"\ncpus = 2\n'
        '[[memory]]\nsize = "128M"\n[[memory]]\nsize = "64M"\nbacking = "memfd"\n'
    )

    config = Config.from_toml(str(board), cpus=4)

    assert config.kernel == str(tmp_path / "vmlinuz")
    assert config.initrd == (str(tmp_path / "a.cpio"),)
    assert config.cpus == 4
    assert [(part.size, part.backing) for part in config.memory] == [
        (128 << 20, "anonymous"),
        (64 << 20, "memfd"),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cpus = ", "is not TOML"),
        ('on-reboot = "restart"', "'on-reboot' is not a key of a machine; write on_reboot"),
        ("vhost-user = []", "'vhost-user' is not a key of a machine; write vhost_user"),
        ("cpu_count = 3", "'cpu_count' is not a key"),
        ("memory = -1", "memory: "),
        ('cpus = "two"', "cpus: 'two'"),
        ("[kernel]\npath = 1", "kernel: "),
        ('kernel = ""', "kernel: '' must be"),
        ("initrd = [1]", "initrd: 1 must be"),
        ("initrd = {a = 1}", "initrd: {'a': 1} must be"),
        ("cpus = " + "9" * 5000, "is not TOML"),
        ("memory = " + "[" * 5000, "is nested too deep"),
        ("# " + "x" * (1 << 20), "is larger than"),
        ("cpus = 1979-05-27", "cpus: datetime.date(1979, 5, 27) must be"),
        ("memory = 1.5", "memory: 1.5 is not a size"),
        ("timeout = nan", "timeout: nan is out of range"),
        ("cpus = 1\ncpus = 2", "is not TOML"),
    ],
)
def test_from_toml_refuses_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    board = tmp_path / "board.toml"
    board.write_text(text)

    with pytest.raises(ConfigError) as caught:
        Config.from_toml(str(board))

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_from_toml_takes_every_path_from_the_files_folder(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text(
        'firmware = "rom.bin"\nconsole = "file:log"\n'
        '[[memory]]\nsize = "1M"\nbacking = "file"\npath = "ram"\n'
        '[[memory]]\nsize = "1M"\nbacking = "file"\npath = "/dev/shm/ram"\n'
    )

    config = Config.from_toml(str(board))

    assert config.firmware == str(tmp_path / "rom.bin")
    assert config.console == f"file:{tmp_path / 'log'}"
    assert [part.path for part in config.memory] == [str(tmp_path / "ram"), "/dev/shm/ram"]


@pytest.mark.parametrize("console", ["stdio", "pty", "none"])
def test_from_toml_leaves_a_console_without_a_path_as_it_is(tmp_path: Path, console: str) -> None:
    board = tmp_path / "board.toml"
    board.write_text(f'console = "{console}"\n')

    assert Config.from_toml(str(board)).console == console


def test_untrusted_board_file_says_what_is_booted_and_how_large(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name in ("boot/kernel", "boot/initrd"):
        (tmp_path / name).write_bytes(b"x")
    board = tmp_path / "board.toml"
    board.write_text(
        'kernel = "boot/kernel"\ninitrd = ["boot/initrd"]\ncmdline = "quiet"\nmemory = "64M"\ncpus = 2\n'
    )
    config = Config.from_toml(str(board), untrusted=True, console="none")

    assert config.kernel == str(tmp_path / "boot/kernel")
    assert config.initrd == (str(tmp_path / "boot/initrd"),)
    assert (config.cmdline, config.memory_size, config.cpus) == ("quiet", 64 << 20, 2)


@pytest.mark.parametrize(
    "line",
    [
        'console = "append:/etc/profile"',
        'device = ["evil.py:Device"]',
        'disk = ["/etc/passwd"]',
        'exec = "true"',
        'share = ["/"]',
        'record = ["net0=/etc/profile"]',
        'trace_device = ["all=/etc/profile"]',
        'name = "other"',
        'memory = [{size = "4M", path = "/etc/passwd"}]',
        'modules = "/lib/modules/6.1"',
        'kernel = "host"',
        'kernel = "/etc/passwd"',
        'kernel = "../secret"',
        'kernel = "link"',
        'kernel = "."',
        'initrd = ["kernel", "/etc/shadow"]',
        'dtb = "/dev/zero"',
    ],
)
def test_untrusted_board_file_names_no_code_and_no_other_file(tmp_path: Path, line: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "kernel").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "secret")
    board = folder / "board.toml"
    board.write_text(f"{line}\n")
    with pytest.raises(ConfigError, match="untrusted board file") as caught:
        Config.from_toml(str(board), untrusted=True)
    assert "\n" not in str(caught.value)


def test_from_toml_of_an_endless_file_reads_no_more_than_a_board_file_may_have() -> None:
    with pytest.raises(ConfigError, match="is larger than"):
        Config.from_toml("/dev/zero")


def test_from_toml_without_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Config.from_toml(str(tmp_path / "none.toml"))


def test_from_toml_with_bytes_that_are_no_text_says_so(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="is not TOML"):
        Config.from_toml(str(board))


@pytest.mark.parametrize("vsock", ['"3,path=v.sock"', '{cid = 3, path = "v.sock"}', '["3,path=v.sock"]'])
def test_from_toml_takes_the_path_of_a_vsock_from_the_files_folder(tmp_path: Path, vsock: str) -> None:
    board = tmp_path / "board.toml"
    board.write_text(f'kernel = "k"\nvsock = {vsock}\n')

    (device,) = Config.from_toml(str(board)).devices

    assert device.values == {"cid": "3", "path": str(tmp_path / "v.sock")}


# The tables


def test_keywords_of_config_are_the_keys_and_the_kinds() -> None:
    keywords = [
        name
        for name, parameter in inspect.signature(Config).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]

    assert sorted(keywords) == sorted([*KEYS, *DEVICE_KINDS, "devices"])


def test_keywords_that_are_passed_on_have_the_types_of_the_signature() -> None:
    signature = {
        name: parameter.annotation
        for name, parameter in inspect.signature(Config).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    passed_on = {name: found.__forward_arg__ for name, found in AllConfigKeywords.__annotations__.items()}

    assert passed_on == signature
    assert set(AllConfigKeywords.__annotations__) - set(ConfigKeywords.__annotations__) == {"devices"}


def test_every_keyword_is_documented() -> None:
    for name in KEYS:
        assert f":param {name}:" in (Config.__doc__ or "")


def test_help_has_every_key_and_kind_under_a_heading() -> None:
    text = OPTIONS.help()

    for option in (*KEYS.values(), *DEVICE_KINDS.values()):
        assert f"  --{option.name} {option.metavar}".rstrip() in text
        assert option.group in GROUPS
    assert [line[:-1] for line in text.splitlines() if line.endswith(":") and line[:-1] in GROUPS] == [
        *GROUPS
    ]


#: For each kind and each of its keys that name files: that option in a board file, and what becomes of it.
PATHS = [
    ("device", "class", "class=d.py:D,a=b", "class=@/d.py:D,a=b"),
    ("device", "class", "d.py:D", "@/d.py:D"),
    ("device", "class", "package.module:D", "package.module:D"),
    ("disk", "path", "a,,b.img,ro", "@/a,,b.img,ro"),
    ("disk", "path", "path=a,ro", "path=@/a,ro"),
    ("disk", "path", "ro,path=:a,b,,c", "@/a,,b,,,,c,ro"),
    ("disk", "backing", "a,backing=b,backing=:c,d", "@/a,backing=@/b,backing=@/c,,d"),
    ("disk", "backing", "a,backing=b,backing=/c,ro", "@/a,backing=@/b,backing=/c,ro"),
    ("hvc", "to", "socket:s,name=n", "socket:@/s,name=n"),
    ("hvc", "to", "pty", "pty"),
    ("net", "type", "link:l,mtu=1500", "link:@/l,mtu=1500"),
    ("net", "type", "mtu=1500,type=:link:l,m", "link:@/l,,m,mtu=1500"),
    ("net", "type", "switch:s,pcap=/p", "switch:s,pcap=/p"),
    ("net", "pcap", "user,pcap=p.pcap", "user,pcap=@/p.pcap"),
    ("vsock", "path", "3,path=v", "3,path=@/v"),
    ("share", "path", "dir:tag,ro", "@/dir:tag,ro"),
    ("vhost_user", "socket", "s,type=rng", "@/s,type=rng"),
]


def test_paths_below_has_every_key_that_names_files() -> None:
    want = {(kind.key, key) for kind in DEVICE_KINDS.values() for key in kind.paths}

    assert {(kind, key) for kind, key, _, _ in PATHS} == want


def _toml(value: str | bool | tuple[str, ...]) -> str:
    return "true" if value is True else repr(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(("kind", "key", "given", "want"), PATHS)
@pytest.mark.parametrize("form", ["text", "list", "table"])
def test_from_toml_takes_the_paths_of_a_device_from_the_files_folder(
    tmp_path: Path, kind: str, key: str, given: str, want: str, form: str
) -> None:
    values = DEVICE_KINDS[kind].parse(given).values
    table = ", ".join(f"{name} = {_toml(value)}" for name, value in values.items())
    value = {"text": repr(given), "list": f"[{given!r}]", "table": f"{{{table}}}"}[form]
    (tmp_path / "board.toml").write_text(f'kernel = "k"\n{kind} = {value}\n')

    (device,) = Config.from_toml(str(tmp_path / "board.toml")).devices

    assert device == DEVICE_KINDS[kind].parse(want.replace("@", str(tmp_path)))


@pytest.mark.parametrize(
    ("key", "given", "want"),
    [
        ("kernel", "k", "@/k"),
        ("kernel", ".", "@/."),
        ("kernel", "host", "host"),
        ("modules", "m", "@/m"),
        ("initrd", "i", ("@/i",)),
        ("firmware", "/abs", "/abs"),
        ("console", "append:log", "append:@/log"),
        ("console", "none", "none"),
        ("dtb", "d", "@/d"),
        ("dtb_overlay", "d", ("@/d",)),
        ("trace_device", "rng0=t", ("rng0=@/t",)),
        ("trace_device", "rng0", ("rng0",)),
        ("record", "rng0=r", ("rng0=@/r",)),
        ("name", "n", "n"),
    ],
)
def test_from_toml_takes_the_paths_of_a_key_from_the_files_folder(
    tmp_path: Path, key: str, given: str, want: str | tuple[str, ...]
) -> None:
    kernel = "" if key in ("kernel", "firmware") else 'kernel = "k"\n'
    (tmp_path / "board.toml").write_text(f"{kernel}{key} = {given!r}\n")

    value = getattr(Config.from_toml(str(tmp_path / "board.toml")), key)

    place = str(tmp_path)
    assert value == (want.replace("@", place) if isinstance(want, str) else (want[0].replace("@", place),))


# The record


def test_configs_are_equal_when_all_their_values_are() -> None:
    asked = {"kernel": "k", "disk": "a,ro", "memory": "512M"}

    assert Config(**asked) == Config(**asked)
    assert Config(**asked) != Config(**asked, cpus=2)
    assert Config(**asked) != Config(**{**asked, "disk": "a"})
    assert Config(**asked) != asked
    assert Config(memory="1M") == Config(memory=MemoryPart(1 << 20))


def test_repr_gives_the_keywords_that_differ_and_makes_an_equal_config() -> None:
    config = Config(kernel="k", disk=["a,ro", "b"], memory="512M", timeout="5m", hvc="pty")

    assert "kernel='k'" in repr(config)
    assert "cpus" not in repr(config)
    assert (
        eval(repr(config), {"Config": Config, "DeviceOptions": DeviceOptions, "MemoryPart": MemoryPart})
        == config
    )
    assert repr(Config()) == "Config()"


def test_replace_keeps_devices_and_adds_those_of_a_keyword() -> None:
    config = Config(disk="a").replace(rng=True)

    assert [device.kind for device in config.devices] == ["disk", "rng"]
    assert [device.kind for device in config.replace(devices=[]).devices] == []


def test_type_checker_knows_the_keywords(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pyvmm.config import Config\n"
        "reveal_type(Config(memory='1G', disk=['a', {'path': 'b', 'ro': True}], rng=True).memory)\n"
        "Config(kernle='k')\n"
        "Config(cpus='2')\n"
        "Config().replace(cpus=2)\n"
        "Config().replace(cpsu=2)\n"
        "Config.from_toml('board.toml', cpus=2)\n"
        "Config.from_toml('board.toml', cpsu=2)\n"
        "from pyvmm import Guest\n"
        "Guest('board.toml', memory='1G', kernel='k', disk=['a'], devices=[], commands=False)\n"
        "Guest(kernle='k')\n"
        "Guest(cpus='2')\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "", "--cache-dir", tmp_path / "cache", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    found = [line.partition("program.py:")[2] for line in done.stdout.splitlines() if "program.py:" in line]
    lines = list(dict.fromkeys(line.partition(":")[0] for line in found))  # a note may follow an error
    assert lines == ["2", "3", "4", "6", "8", "11", "12"], done.stdout
    assert "MemoryPart" in found[0]
