"""Devices of the user's own: found, checked, made; and one sentence for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.errors import ConfigError
from pyvmm.machine.machine import Machine
from pyvmm.testing import FakeDriver
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.options import make_device
from pyvmm.virtio.ring.chain import Chain

HEAD = """
from __future__ import annotations
from pyvmm.virtio.device import VirtioDevice

class Mine(VirtioDevice):
    device_id = 42
    name = "mine"
    queue_sizes = (8,)
"""
HANDLE = """
    def handle(self, queue, chain):
        chain.write(b"mine")
"""
INIT = """
    def __init__(self, count: int, ratio: float = 0.5, loud: bool = False, text: str = "",
                 raw: bytes = b"", maybe: int | None = None, bare=None):
        super().__init__()
        self.given = (count, ratio, loud, text, raw, maybe, bare)
"""


def asked(text: str) -> VirtioDevice:
    """As ``--device TEXT`` makes it."""
    return make_device(DEVICE_KINDS["device"].parse(text))


def wrong(text: str) -> str:
    """The sentence that refuses ``--device TEXT``."""
    with pytest.raises(ConfigError) as caught:
        asked(text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def source(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_class_of_a_file_becomes_a_device_that_works(tmp_path: Path) -> None:
    device = asked(f"{source(tmp_path, HEAD + HANDLE)}:Mine")

    with FakeDriver(device) as driver:
        assert (device.device_id, driver.request(0, writable=[8])) == (42, b"mine")


def test_class_of_a_module_becomes_a_device() -> None:
    assert asked("pyvmm.virtio.rng.device:Rng").device_id == 4


def test_installed_device_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(tmp_path, HEAD + HANDLE).rename(tmp_path / "installed_device.py")
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pyvmm.devices]\nmy-device = installed_device:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert asked("my-device").device_id == 42
    assert "installed are: my-device" in wrong("your-device")


def test_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("ID = 43\n")
    path = source(tmp_path, "from neighbour_of_mine import ID\n" + HEAD.replace("42", "ID").lstrip() + HANDLE)
    path.write_text(path.read_text().replace("from __future__ import annotations\n", ""))

    assert asked(f"{path}:Mine").device_id == 43


def test_arguments_are_converted_by_their_annotations(tmp_path: Path) -> None:
    path = source(tmp_path, HEAD + INIT + HANDLE)

    device = asked(f"{path}:Mine,count=0x10,ratio=1.5,loud,text=a,,b,raw=xyz,maybe=7,bare=t")
    other = asked(f"{path}:Mine,count=1,loud=off")

    assert device.given == (16, 1.5, True, "a,b", b"xyz", 7, "t")  # type: ignore[attr-defined]
    assert other.given == (1, 0.5, False, "", b"", None, None)  # type: ignore[attr-defined]


def test_annotation_that_only_type_checkers_know_does_not_disturb(tmp_path: Path) -> None:
    text = HEAD + INIT.replace("bare=None", "bare: Unknown = None") + HANDLE

    device = asked(f"{source(tmp_path, text)}:Mine,count=3,maybe=4")

    assert device.given[0] == 3  # type: ignore[attr-defined]
    assert device.given[5] == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (",count=many", "count=many is not a number"),
        (",count=1,ratio=x", "ratio=x is not a number"),
        (",count=1,loud=maybe", "loud=maybe is neither on nor off"),
        (",count", "count needs a value"),
        (",count=1,size=3", "'size' is unknown; it knows count, ratio, loud, text, raw, maybe, bare"),
        ("", "count=... is missing; it knows count"),
    ],
)
def test_argument_that_does_not_fit_is_named(tmp_path: Path, words: str, sentence: str) -> None:
    assert sentence in wrong(f"{source(tmp_path, HEAD + INIT + HANDLE)}:Mine{words}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("device_id = 42", "pass"), "device_id is 0; give the class a number"),
        (("device_id = 42", "device_id = 'x'"), "device_id is 'x'"),
        (('name = "mine"', "name = 'a b'"), "name is 'a b'; give it letters"),
        (("(8,)", "(8, 12)"), "queue 1 has size 12; make it a power of two up to 32768"),
        (("(8,)", "8"), "queue_sizes is 8; make it a tuple"),
        (("(8,)", "(65536,)"), "queue 0 has size 65536"),
        (("(8,)", "(8,)\n    features = 1 << 33"), "feature bit 33 is not a device's own"),
        (("(8,)", "(8,)\n    features = -1"), "features is -1; make it a mask"),
        (("(8,)", "(8,)\n    config_fields = {'a': 'u9'}"), "config_fields: a: 'u9' is none of u8"),
        (("(8,)", "(8,)\n    config_fields = ['a']"), "config_fields is a mapping"),
        (
            ("(8,)", "(8,)\n    config_writable = {'b'}"),
            "config_writable names 'b', which config_fields has not",
        ),
    ],
)
def test_declaration_that_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    assert sentence in wrong(f"{source(tmp_path, HEAD.replace(*change) + HANDLE)}:Mine")


def test_class_with_queues_and_no_handle_is_refused(tmp_path: Path) -> None:
    assert "it has queues and no method handle" in wrong(f"{source(tmp_path, HEAD)}:Mine")


def test_class_that_is_no_device_is_refused(tmp_path: Path) -> None:
    assert "is no device class; derive it from" in wrong(f"{source(tmp_path, 'class Mine: pass')}:Mine")


def test_constructor_that_forgets_its_base_is_told_so(tmp_path: Path) -> None:
    text = HEAD + HANDLE + "\n    def __init__(self):\n        pass\n"

    assert "does not call super().__init__()" in wrong(f"{source(tmp_path, text)}:Mine")


def test_size_that_the_constructor_sets_is_checked_too(tmp_path: Path) -> None:
    text = (
        HEAD
        + HANDLE
        + "\n    def __init__(self):\n        self.queue_sizes = (9,)\n        super().__init__()\n"
    )

    assert "queue 0 has size 9" in wrong(f"{source(tmp_path, text)}:Mine")


def test_class_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    assert "has no Yours; device classes in it: Mine" in wrong(f"{source(tmp_path, HEAD + HANDLE)}:Yours")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\ny = (\n", "is not Python: {path} line 2: '(' was never closed"),
        ("\n\nx = 1 / 0\n", "failed in <module>, {path} line 3: ZeroDivisionError: division by zero"),
        (
            "import struct\n\nstruct.pack('B', 300)\n",
            "failed in <module>, {path} line 3: error: ubyte format",
        ),
        ("import no_such_module\n", "{path} line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_file_that_fails_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path, text)

    assert sentence.format(path="mine.py") in wrong("./mine.py:Mine")


def test_constructor_that_fails_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path, "class Base: pass\n" + HEAD.replace("\nfrom __future__ import annotations", "") + HANDLE)
    with (tmp_path / "mine.py").open("a") as file:
        file.write(
            "    def __init__(self):\n        super().__init__()\n        raise ValueError('no\\nway')\n"
        )

    assert wrong("./mine.py:Mine").endswith("failed in __init__, mine.py line 14: ValueError: no way")


def test_file_that_fails_raises_its_own_error_when_debugging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_DEBUG", "1")

    with pytest.raises(ZeroDivisionError):
        asked(f"{source(tmp_path, '1 / 0')}:Mine")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("./nowhere.py:Mine", "there is no such Python file"),
        ("no_such_package.devices:Mine", "Python finds no module no_such_package"),
        ("pyvmm.virtio.nothing:Mine", "Python finds no module pyvmm.virtio.nothing"),
        ("nobody", "'nobody' is neither FILE.py:Class nor package.module:Class nor an installed device"),
    ],
)
def test_class_that_is_nowhere_is_one_sentence(text: str, sentence: str) -> None:
    assert sentence in wrong(text)


@pytest.mark.parametrize(
    "keys",
    [
        'device = "mine.py:Mine,count=3"',
        'device = ["class=./mine.py:Mine,count=3"]',
        "[[device]]\ncount = 3\nclass = 'mine.py:Mine'",
    ],
)
def test_file_in_a_board_file_is_taken_from_its_folder(tmp_path: Path, keys: str) -> None:
    source(tmp_path, HEAD + INIT + HANDLE)
    (tmp_path / "board.toml").write_text(f'kernel = "k"\n{keys}\n')

    [words] = Config.from_toml(str(tmp_path / "board.toml")).devices

    assert make_device(words).given[0] == 3  # type: ignore[attr-defined]


class Faulty(VirtioDevice):
    """Raises in the method that it is told to."""

    device_id = 42
    name = "faulty"
    queue_sizes = (8,)

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def _may_raise(self, method: str) -> None:
        if method == self.method:
            raise ZeroDivisionError(method)

    def started(self) -> None:
        self._may_raise("started")

    def handle(self, queue: int, chain: Chain) -> None:
        self._may_raise("handle")

    def close(self) -> None:
        self._may_raise("close")


def test_exception_in_a_start_is_a_defect_and_not_a_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        FakeDriver(Faulty("started"))


def test_exception_in_a_request_reaches_the_test_that_made_it() -> None:
    with FakeDriver(Faulty("handle")) as driver, pytest.raises(ZeroDivisionError):
        driver.request(0, writable=[1])


@pytest.mark.kvm
def test_exception_at_the_end_is_told_and_the_other_devices_are_closed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    closed = []

    class Well(Faulty):
        def close(self) -> None:
            closed.append(self.name)

    firmware = Path(__file__).resolve().parents[2] / "firmware" / "x86_64" / "bin" / "exit.bin"
    with Machine(
        Config(firmware=str(firmware), console="none", timeout=30), devices=[Well(""), Faulty("close")]
    ) as machine:
        ending = machine.run()

    assert ending.code == 32, ending
    assert closed == ["faulty0"]
    assert "faulty1 failed while it was closed, in _may_raise, " in capfd.readouterr().err


def test_request_that_is_never_completed_is_named_by_the_fake_driver(tmp_path: Path) -> None:
    text = HEAD.replace("import Virtio", "import DEFERRED, Virtio")
    text += HANDLE.replace("chain.write", "return DEFERRED #")

    with (
        FakeDriver(asked(f"{source(tmp_path, text)}:Mine")) as driver,
        pytest.raises(
            TimeoutError, match=r"after a handle\(\) that returns DEFERRED, complete\(\) has to follow"
        ),
    ):
        driver.request(0, writable=[8], timeout=0.05)


def test_handle_that_returns_a_number_is_a_defect_and_told_what_to_return(tmp_path: Path) -> None:
    text = HEAD + HANDLE.replace("chain.write", "return chain.write")

    with (
        FakeDriver(asked(f"{source(tmp_path, text)}:Mine")) as driver,
        pytest.raises(
            TypeError, match=r"handle\(\) returned 4; it returns nothing for a request that is done"
        ),
    ):
        driver.request(0, writable=[8])
