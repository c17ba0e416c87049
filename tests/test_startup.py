"""The budget of the way to a guest's first instruction: docs/architecture.md, "Start-up has a budget"."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest

from tests.support.bundle import ROOT, contents, launcher, made

FIRMWARE = ROOT / "firmware" / "x86_64" / "bin" / "exit.bin"
RUN = ["run", "--firmware", str(FIRMWARE), "--console", "none"]
PASSED = 32
VERB = "from pyvmm.cli.main import main\ncode = main(sys.argv[1:])\n"
#: What loading the modules takes, in starts of a bare interpreter: from the bundle, and one by one.
IMPORTS, IMPORTS_ONE_BY_ONE = 2.0, 4.5
#: Modules in the bundle, functions and classes in these, and files that a start opens.
MODULES, DEFINITIONS, FILES = 129, 1250, 12
PAIRS = 45

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which a bundle has been made."""
    environment = {**os.environ, "PYVMM_CACHE": str(tmp_path_factory.mktemp("cache"))}
    made(environment)
    return environment


def start(ending: str, environment: dict[str, str], prelude: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        launcher(ending, prelude) + RUN,
        capture_output=True,
        text=True,
        timeout=50,
        env=environment,
        check=False,
    )


def cpu(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of processor time, user and system, of *command*, which succeeds."""
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, environment), 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def imports(environment: dict[str, str]) -> float:
    """Loading the modules in starts of a bare interpreter.

    Of pairs measured in turn, the time that a tenth of them stays below: what runs beside them only adds.
    """
    bare = [sys.executable, *launcher.flags, "-c", "import posix; posix._exit(0)"]
    loading = launcher("import os; os._exit(0)\n") + RUN
    pairs = [(cpu(bare, environment), cpu(loading, environment)) for _ in range(PAIRS)]
    alone, loaded = (statistics.quantiles(times, n=10)[0] for times in zip(*pairs, strict=True))
    return loaded / alone - 1


def definitions(code: CodeType) -> int:
    """The functions and classes in *code*, at any depth."""
    return sum(1 + definitions(part) for part in code.co_consts if isinstance(part, CodeType))


def slowest() -> str:
    """What takes most of the time one by one: for whoever finds the budget exceeded."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pyvmm", "run", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if re.match(r"import time: +\d", line)]
    lines.sort(key=lambda line: -int(line.split()[2]))
    return "\n".join(["microseconds of a module's own, with all it imports, name:", *lines[:20]])


def test_modules_from_the_bundle_are_loaded_within_the_budget(environment: dict[str, str]) -> None:
    assert imports(environment) <= IMPORTS, slowest()


def test_modules_one_by_one_are_loaded_within_the_budget(environment: dict[str, str]) -> None:
    alone = {name: value for name, value in environment.items() if not re.match("PYVMM_CACHE|XDG|HOME", name)}

    assert imports(alone) <= IMPORTS_ONE_BY_ONE, slowest()


def test_code_of_the_bundle_is_within_the_budget(environment: dict[str, str]) -> None:
    modules = contents(made(environment))

    assert len(modules) <= MODULES
    assert sum(definitions(code) for _, _, _, code in modules if code is not None) <= DEFINITIONS


@pytest.mark.kvm
def test_start_with_a_bundle_opens_few_files_and_imports_nothing_of_pyvmm_beside_it(
    environment: dict[str, str],
) -> None:
    prelude = (
        "import sys\nopened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
    )
    ending = VERB + "print(*opened, sep='\\n')\nsys.exit(code)\n"

    done = start(ending, environment, prelude)

    assert (done.returncode, done.stderr) == (PASSED, ""), done
    opened = done.stdout.split("\n")[:-1]
    assert len(opened) <= FILES, opened
    ours = {Path(name).name.split(".")[0] for name in opened if name.startswith(str(ROOT / "pyvmm"))}
    assert ours <= {"__init__", "bundle"}


@pytest.mark.kvm
def test_run_of_firmware_loads_no_package_of_others_and_no_room_off_its_way(
    environment: dict[str, str],
) -> None:
    ending = (
        "from pyvmm.cli.main import main\ncode = main(sys.argv[1:])\nprint(*sys.modules)\nsys.exit(code)\n"
    )

    done = start(ending, environment)

    assert (done.returncode, done.stderr) == (PASSED, ""), done
    loaded = set(done.stdout.split())
    assert {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) <= {"pyvmm", "__main__"}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("pyvmm.")}
    assert rooms.isdisjoint({"exec", "guest", "images", "lab", "testing", "virtio"})
    assert {f"pyvmm.cli.{verb}" for verb in ("doctor", "image", "lab", "exec")}.isdisjoint(loaded)
    assert "pyvmm.machine.diagnose" not in loaded
    assert "site" not in loaded


def test_import_of_the_package_loads_nothing_of_it() -> None:
    code = f"import sys; sys.path.append({str(ROOT)!r}); import pyvmm; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )

    assert {name for name in done.stdout.split() if name.startswith("pyvmm")} == {"pyvmm"}
