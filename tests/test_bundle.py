"""The bundle of the modules that a start loads: made, used, made again, and refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from pyvmm import bundle
from pyvmm.bundle_writer import KEPT
from pyvmm.host.cache import cache_directory
from tests.support.bundle import ROOT, SETTLED, Contents, complete, launcher, made
from tests.support.command import until

pytestmark = pytest.mark.timeout(120)

FORGED = 77
#: Variables of which one names the directory.
PLACES = ("HOME", "XDG_CACHE_HOME", "PYVMM_CACHE")
HELP = b"Boots a guest."


def help_of_run(environment: dict[str, str], **keys: Any) -> subprocess.CompletedProcess[bytes]:
    """``pyvmm run --help``: the launcher with all that a run of firmware loads, and no KVM."""
    command = [*launcher("from pyvmm.cli.main import entry\nentry()\n"), "run", "--help"]
    return subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False, **keys)


def works(done: subprocess.CompletedProcess[bytes]) -> bool:
    return done.returncode == 0 and HELP in done.stdout and not done.stderr


def files(path: Path) -> list[Any]:
    """What the bundle at *path* was made for and from."""
    found = Contents(path)
    return [found.line, *(part[:3] for part in (*found.parents, *found.machines, *found.on_demand))]


FIRST = "import os, sys\nfrom pyvmm import bundle\n"


def start(ending: str, environment: dict[str, str], **keys: Any) -> subprocess.CompletedProcess[str]:
    """A start that loads the parent's modules and goes on with *ending*."""
    command = [*launcher(FIRST + ending), "run"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False, **keys
    )


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that a start made, which lacks nothing."""
    return complete({**os.environ, "PYVMM_CACHE": str(tmp_path_factory.mktemp("cache"))})


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One with a cache directory of its own, not made yet."""
    return {**os.environ, "PYVMM_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def planted(environment: dict[str, str], valid: Path) -> Path:
    """A bundle whose code ends the process with status FORGED; else as valid as any."""
    path = Path(environment["PYVMM_CACHE"]) / valid.name
    path.parent.mkdir()
    path.write_bytes(Contents(valid).forged("pyvmm.units", f"raise SystemExit({FORGED})"))
    path.chmod(0o600)
    return path


def test_bundle_when_valid_is_what_a_start_executes(planted: Path, environment: dict[str, str]) -> None:
    assert help_of_run(environment).returncode == FORGED


def test_bundle_when_made_is_its_users_alone(valid: Path) -> None:
    assert stat.S_IMODE(valid.stat().st_mode) == 0o600


PAYLOAD = (
    "import gzip; from pyvmm.boot.payload import unpack_cached as it; it(memoryview(gzip.compress(b'x')))"
)
IMAGE = "from pyvmm.images.cache import entry; entry('thing/one', lambda path: path.touch())"


@pytest.mark.parametrize(("first", "code"), [("payload", PAYLOAD), ("thing", IMAGE)])
def test_bundle_is_made_in_a_cache_that_another_part_of_pyvmm_made_with_umask_002(
    first: str, code: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYVMM_CACHE": "", "XDG_CACHE_HOME": "", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, umask=0o002, check=True)
    cache = tmp_path / ".cache" / "pyvmm"
    assert [path.name for path in cache.iterdir()] == [first]

    assert works(help_of_run(environment, umask=0o002))

    assert len(list(cache.glob("start-*.bundle"))) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def move_behind_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, place: int | None = None) -> None:
    """Damage the middle of the head, or what is at *place*."""
    data = bytearray(path.read_bytes())
    data[sum(Contents(path).head) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def of_another_interpreter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"('3.", b"('2.", 1))


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(path, 65534, 65534)


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.chmod(0o620), id="the group may write it"),
        pytest.param(lambda path: path.chmod(0o602), id="others may write it"),
        give_away,
        move_behind_a_link,
        make_a_pipe,
        cut,
        flip,
        of_another_interpreter,
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
    ],
)
def test_bundle_when_not_to_be_trusted_is_not_executed_and_is_replaced(
    planted: Path, environment: dict[str, str], spoil: Callable[[Path], object], valid: Path
) -> None:
    spoil(planted)

    assert works(help_of_run(environment))

    assert planted.is_file() and not planted.is_symlink()
    assert files(planted) == files(valid)
    assert stat.S_IMODE(planted.stat().st_mode) == 0o600
    assert works(help_of_run(environment))


def raising(path: Path, valid: Path, module: str) -> None:
    path.write_bytes(Contents(valid).forged(module, "raise ValueError"))


def damaged(path: Path, valid: Path, piece: str) -> None:
    path.write_bytes(valid.read_bytes())
    flip(path, Contents(path).head[1] + Contents(path).pieces[piece][0])


@pytest.mark.parametrize(
    ("spoil", "what"), [(raising, "pyvmm.config.keys"), (raising, "pyvmm.cli.run"), (damaged, "parent")]
)
def test_bundle_whose_code_raises_or_is_damaged_leaves_the_ordinary_import(
    planted: Path,
    environment: dict[str, str],
    valid: Path,
    spoil: Callable[[Path, Path, str], object],
    what: str,
) -> None:
    spoil(planted, valid, what)

    assert works(help_of_run(environment))
    assert files(planted) == files(valid)
    assert works(help_of_run(environment))


MACHINE = """
before = set(sys.modules)
bundle.load_machine()
print("pyvmm.machine.machine" in sys.modules, "pyvmm.machine.machine" in before)
from pyvmm.cli.guest_run import GuestRun
print(GuestRun.__name__)
"""


def test_modules_of_the_vm_process_are_loaded_by_it_alone(planted: Path, environment: dict[str, str]) -> None:
    planted.unlink()
    first = start(MACHINE, environment)
    second = start(MACHINE, environment)

    assert (first.stdout, first.stderr) == ("True True\nGuestRun\n", "")  # it made the bundle
    assert (second.stdout, second.stderr) == ("True False\nGuestRun\n", "")


@pytest.mark.parametrize(("spoil", "what"), [(raising, "pyvmm.machine.machine"), (damaged, "machine")])
def test_bundle_with_spoiled_modules_of_the_vm_process_leaves_the_ordinary_import_and_is_replaced(
    planted: Path,
    environment: dict[str, str],
    valid: Path,
    spoil: Callable[[Path, Path, str], object],
    what: str,
) -> None:
    spoil(planted, valid, what)

    assert start(MACHINE, environment).stdout == "False False\nGuestRun\n"
    assert not planted.exists()
    assert works(help_of_run(environment))
    assert files(planted) == files(valid)


DEMAND = "import pyvmm.exec.client as it\nprint(it.__file__, callable(it.ExecClient))\n"


def test_module_on_demand_is_the_one_in_the_bundle(
    planted: Path, environment: dict[str, str], valid: Path
) -> None:
    planted.write_bytes(Contents(valid).forged("pyvmm.exec.client", "ExecClient = 'forged'"))

    assert start(DEMAND, environment).stdout.split()[1:] == ["False"]


def module_start(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """``python -m pyvmm run --help`` in *folder*."""
    command = [sys.executable, "-m", "pyvmm", "run", "--help"]
    keys = {**environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=keys, capture_output=True, timeout=60, check=False)


def test_start_as_a_module_has_a_bundle_of_its_own_and_none_of_the_current_directory(
    environment: dict[str, str], tmp_path: Path
) -> None:
    cache = Path(environment["PYVMM_CACHE"])
    (tmp_path / "socket.py").write_text("NAME = 'mine'\n")

    def has_a_bundle() -> bool:
        assert works(module_start(tmp_path, environment))
        return any(cache.glob("start-*.bundle"))

    until(has_a_bundle, SETTLED)
    [path] = cache.iterdir()
    contents = Contents(path)
    everything = (*contents.parents, *contents.machines, *contents.on_demand)
    assert "socket" in [name for name, _, _, _ in everything]
    assert not [file for _, file, _, _ in everything if file.startswith(str(tmp_path))]
    path.write_bytes(contents.forged("pyvmm.units", f"raise SystemExit({FORGED})"))
    assert module_start(tmp_path, environment).returncode == FORGED
    assert works(help_of_run(environment))


@pytest.mark.parametrize("piece", ["index", "pyvmm.exec.client"])
def test_damaged_module_on_demand_is_imported_in_the_ordinary_way_and_the_bundle_replaced(
    planted: Path, environment: dict[str, str], valid: Path, piece: str
) -> None:
    damaged(planted, valid, piece)

    done = start(DEMAND, environment)

    assert (done.stdout, done.stderr) == (f"{ROOT}/pyvmm/exec/client.py True\n", "")
    assert not planted.exists()
    assert works(help_of_run(environment))
    assert files(planted) == files(valid)


def test_module_of_the_users_own_is_not_one_in_the_bundle(
    planted: Path, environment: dict[str, str], valid: Path, tmp_path: Path
) -> None:
    shutil.copy(valid, planted)
    (tmp_path / "ipaddress.py").write_text("NAME = 'mine'\n")
    own = f"sys.path.insert(0, {str(tmp_path)!r})\n"
    show = "import ipaddress; print(getattr(ipaddress, 'NAME', 'the library\\'s'))\n"

    assert "ipaddress" in [name for name, _, _, _ in Contents(valid).on_demand]
    assert start(show, environment).stdout == "the library's\n"
    assert start(own + show, environment).stdout == "mine\n"


def test_descriptor_of_the_bundle_is_none_of_a_standard_file(
    planted: Path, environment: dict[str, str], valid: Path
) -> None:
    shutil.copy(valid, planted)
    show = "os.write(2, str((bundle.descriptor(), os.get_inheritable(bundle.descriptor()))).encode())\n"

    for closed in ([], [0], [0, 1]):
        done = start(show, environment, preexec_fn=lambda fds=closed: [os.close(fd) for fd in fds])

        number, inherited = done.stderr.strip("()").split(", ")
        assert int(number) > 2 and inherited == "False", done


#: Imports all of ``machine.late``, and what VM processes import besides, in a process that cannot open a file
#: and where ours have gone.
WITHOUT_FILES = """
from pyvmm.cli import in_vm_process
from pyvmm.guest import vm_process
from pyvmm.machine import late
names = [*late.modules(virtio=True), *in_vm_process.LATER, *vm_process.LATER]
before = {name for name in names if name in sys.modules}
late.load(virtio=True)
print(*{"_bz2", "_hashlib", "_lzma"} & {*sys.modules})
print(len({name for name in names if name in sys.modules} - before) < 5)
package = os.path.dirname(bundle.__file__)
os.rename(package, package + "-elsewhere")
os.unlink(bundle.path())
def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        raise PermissionError(*arguments)
sys.addaudithook(refuse)
for name in names:
    __import__(name)
print("imported", len(names) > 100)
"""


def test_machine_imports_from_the_bundle_without_a_file_system(installation: Installation) -> None:
    installation.complete()

    done = installation.start(WITHOUT_FILES)

    assert (done.stdout, done.stderr) == ("\nTrue\nimported True\n", "")


SETTLE = "print(bundle.settle())\n"


def test_bundle_with_a_changed_module_on_demand_does_not_settle_and_is_replaced(
    installation: Installation,
) -> None:
    installation.complete()
    assert installation.start(SETTLE).stdout == "True\n"

    source = installation.package / "virtio" / "ids.py"
    source.write_text(source.read_text() + "\nCHANGED = True\n")

    assert installation.start(SETTLE).stdout == "False\n"
    shown = installation.start("import pyvmm.virtio.ids as it\nprint(it.CHANGED)\n")
    assert (shown.stdout, shown.stderr) == ("True\n", "")
    until(lambda: installation.start(SETTLE).stdout == "True\n", SETTLED)
    assert installation.start("import pyvmm.virtio.ids as it\nprint(it.CHANGED)\n").stdout == "True\n"


def test_module_without_byte_code_is_not_compiled_by_the_start_that_makes_the_bundle(
    installation: Installation,
) -> None:
    compiled = Path(cache_from_source(str(installation.package / "virtio" / "ids.py")))
    installation.complete().unlink()
    compiled.unlink()

    path = installation.made()
    assert Contents(path).wanting == str(compiled)
    assert installation.start(SETTLE).stdout == "False\n"
    assert not compiled.exists()

    installation.complete()  # as an import of the module leaves its byte code

    assert installation.start(SETTLE).stdout == "True\n"


def test_without_a_bundle_there_is_nothing_to_settle() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}

    done = start("print(bundle.settle(), bundle.descriptor())\n" + MACHINE, environment)

    assert (done.stdout, done.stderr) == ("False -1\nFalse False\nGuestRun\n", "")


def test_first_starts_at_once_leave_one_bundle_and_nothing_else(
    environment: dict[str, str], valid: Path
) -> None:
    command = [*launcher("from pyvmm.cli.main import entry\nentry()\n"), "run", "--help"]
    starts = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(4)]

    assert [start.wait(timeout=60) for start in starts] == [0, 0, 0, 0]

    [path] = Path(environment["PYVMM_CACHE"]).iterdir()
    assert files(path) == files(valid)


def test_bundle_that_cannot_be_written_whole_is_not_there(environment: dict[str, str], valid: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    assert works(help_of_run(environment, preexec_fn=limit))

    assert list(Path(environment["PYVMM_CACHE"]).iterdir()) == []


@pytest.mark.parametrize("names", [{}, {"PYVMM_CACHE": "/dev/null"}, {"HOME": "/proc/nobody"}])
def test_start_without_a_place_for_a_bundle_works(names: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in PLACES}

    assert works(help_of_run({**kept, **names}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_directory_of_another_user_gets_no_bundle(environment: dict[str, str], valid: Path) -> None:
    folder = Path(environment["PYVMM_CACHE"])
    folder.mkdir()
    os.chown(folder, 65534, 65534)

    assert works(help_of_run(environment))

    assert list(folder.iterdir()) == []


def test_bundles_of_other_installations_stay_until_there_are_many(
    environment: dict[str, str], valid: Path
) -> None:
    folder = Path(environment["PYVMM_CACHE"])
    folder.mkdir()
    (folder / "kernel").mkdir()
    for number in range(KEPT):
        other = folder / f"start-{number}.bundle"
        other.touch()
        os.utime(other, (number, number))

    assert works(help_of_run(environment))

    expected = {f"start-{number}.bundle" for number in range(1, KEPT)}
    assert {path.name for path in folder.iterdir()} == {*expected, valid.name, "kernel"}


@pytest.mark.parametrize(
    "names",
    [
        {"HOME": "/home/u"},
        {"HOME": "/home/u", "XDG_CACHE_HOME": "/x"},
        {"HOME": "/home/u", "XDG_CACHE_HOME": "relative"},
        {"HOME": "/home/u", "XDG_CACHE_HOME": "/x", "PYVMM_CACHE": "/own"},
    ],
)
def test_directory_is_that_of_all_caches(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)

    assert os.path.dirname(bundle.path()) == cache_directory()


def test_modules_from_the_bundle_are_like_those_imported(
    environment: dict[str, str], planted: Path, valid: Path
) -> None:
    ending = """
import json, importlib
def told(module):
    spec = module.__spec__
    return [
        sorted(set(vars(module)) - {"__cached__"}),
        [module.__name__, module.__file__, module.__package__, str(getattr(module, "__path__", None))],
        [spec.name, spec.origin, spec.parent, spec.has_location, str(spec.submodule_search_locations)],
        [module.__loader__ is spec.loader, spec.loader.name, spec.loader.path, spec.cached],
    ]
importlib.reload(sys.modules["pyvmm.units"])
import pyvmm.bundle, pyvmm.exec.client, pyvmm.machine.late, re
pyvmm.bundle.load_machine()
import pyvmm.cli.guest_run
names = {name for name in sys.modules if name.startswith("pyvmm.")} - {"pyvmm.bundle", "pyvmm.bundle_writer"}
print(json.dumps({name: told(sys.modules[name]) for name in names | {"ctypes", "mmap", "re", "select"}}))
"""
    command = [*launcher(ending), "run"]

    def told() -> Any:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
        return json.loads(done.stdout)

    planted.write_bytes(b"")
    imported = told()
    assert files(planted) == files(valid)
    bundled = told()

    assert "pyvmm.machine.machine" in imported and "pyvmm.cli.run" in imported
    assert bundled == imported


class Installation:
    """A copy of the package in a virtual environment, whose sources a test may change."""

    def __init__(self, place: Path) -> None:
        venv.create(place, symlinks=True, with_pip=False)
        [packages] = place.glob("lib/python*/site-packages")
        self.package = packages / "pyvmm"
        shutil.copytree(ROOT / "pyvmm", self.package)
        shutil.copy(ROOT / "scripts" / "pyvmm", place / "bin" / "pyvmm")
        self._command = [str(place / "bin" / "pyvmm"), "run", "--help"]
        self._python = str(place / "bin" / "python3")
        self._cache = place / "cache"
        self._environment = {**os.environ, "PYVMM_CACHE": str(self._cache)}

    def start(self, ending: str) -> subprocess.CompletedProcess[str]:
        """A start that loads the parent's modules and goes on with *ending*."""
        command = [*launcher(FIRST + ending, python=self._python), "run"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self._environment, check=False
        )

    def made(self) -> Path:
        """Its bundle, made where there is none."""
        return made(self._environment, self._python)

    def complete(self) -> Path:
        """Its bundle, with all that is imported on demand."""
        return complete(self._environment, self._python)

    def help(self, **names: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "PYVMM_CACHE": str(self._cache), **names}
        return subprocess.run(self._command, capture_output=True, timeout=60, env=environment, check=False)

    def has_in_its_bundle(self, words: bytes) -> bool:
        """Whether there is a bundle with *words* in it, after one more start."""
        self.help()
        return any(words in path.read_bytes() for path in self._cache.glob("start-*"))


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "environment")


def test_source_when_changed_is_what_the_next_start_runs(installation: Installation) -> None:
    source = installation.package / "cli" / "run.py"
    until(lambda: installation.has_in_its_bundle(b"Boots a guest."), SETTLED)

    source.write_text(source.read_text().replace("Boots a guest.", "Boots a GUEST."))  # of the same size

    assert b"Boots a GUEST." in installation.help().stdout
    until(lambda: installation.has_in_its_bundle(b"Boots a GUEST."), SETTLED)
    assert b"Boots a GUEST." in installation.help().stdout


def test_source_when_replaced_by_a_package_is_not_what_the_next_start_runs(
    installation: Installation,
) -> None:
    source = installation.package / "cli" / "run.py"
    until(lambda: installation.has_in_its_bundle(b"Boots a guest."), SETTLED)

    folder = source.with_suffix("")
    folder.mkdir()
    source.rename(folder / "__init__.py")
    (folder / "__init__.py").write_text("def main(argv):\n    print('a package')\n    return 0\n")

    assert installation.help().stdout == b"a package\n"


def test_traceback_of_a_bundled_module_shows_its_source(installation: Installation) -> None:
    source = installation.package / "cli" / "run.py"
    text = source.read_text()
    source.write_text(
        text.replace("    values, ", "    raise ValueError(len(argv))  # here\n    values, ", 1)
    )
    assert source.read_text() != text
    until(lambda: installation.has_in_its_bundle(b"cli/run.py"), SETTLED)

    told = installation.help(PYVMM_DEBUG="1").stderr.decode()

    assert f'File "{source}", line' in told, told
    assert "raise ValueError(len(argv))  # here" in told
    assert "bundle.py" not in told


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_bundle_in_a_directory_that_others_may_write_is_neither_executed_nor_made(
    planted: Path, environment: dict[str, str], mode: int
) -> None:
    planted.parent.chmod(mode)

    assert works(help_of_run(environment))
    planted.unlink()
    assert works(help_of_run(environment))
    assert list(planted.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_bundle_in_a_directory_of_another_user_is_not_executed(
    planted: Path, environment: dict[str, str]
) -> None:
    os.chown(planted.parent, 65534, -1)

    assert works(help_of_run(environment))


def test_launcher_of_a_checkout_imports_nothing_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "pyvmm").mkdir()
    (tmp_path / "pyvmm" / "__init__.py").write_text("raise SystemExit('somebody else')\n")
    done = subprocess.run(
        [ROOT / "scripts" / "pyvmm", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.split()[:1], done.stderr) == (0, ["pyvmm"], "")
