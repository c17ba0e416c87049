"""The budget of the way to a guest's first instruction: docs/architecture.md, "Start-up has a budget"."""

from __future__ import annotations

import compileall
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import pytest

from tests.support.bundle import ROOT, Contents, launcher, made

FIRMWARE = ROOT / "firmware" / "x86_64" / "bin" / "exit.bin"
RUN = ["run", "--firmware", str(FIRMWARE), "--console", "none"]
PASSED = 32


class Budget(NamedTuple):
    """Of one process."""

    modules: int
    definitions: int
    files: int


#: What loading the modules takes, in starts of a bare interpreter: from the bundle, and one by one.
IMPORTS, IMPORTS_ONE_BY_ONE = 2.8, 5.0
#: What the parent loads until it forks, what the VM process loads besides: modules, functions and classes in
#: these, and files that each opens.
PARENT = Budget(modules=44, definitions=400, files=8)
VM_PROCESS = Budget(modules=96, definitions=920, files=8)
PAIRS = 45
#: What both processes load, in one.
LOADING = """
from pyvmm.bundle import load_machine
load_machine()
from pyvmm.arch import native
from pyvmm.cli import guest_run, run
native.platform(), native.read_rom()
import os
os._exit(0)
"""
#: Modules that a parent needs for no guest with firmware.
MACHINES = ("pyvmm.arch", "pyvmm.board", "pyvmm.boot", "pyvmm.machine", "pyvmm.memory", "pyvmm.pykvm")
#: Makes each process write to descriptor 2 what it has loaded, once the guest has ended.
LOADED = """
import os
from pyvmm.cli import run
from pyvmm.sandbox.vm_process import Parent
def show():
    os.write(2, " ".join(sys.modules).encode() + b"\\n")
def ended(self, values, ended=Parent.ended):
    show()
    ended(self, values)
def main(argv, main=run.main):
    try:
        return main(argv)
    finally:
        show()
Parent.ended = ended
run.main = main
"""
#: Writes to descriptor 2 which process opens a file, or asks the import system for a module.
PRELUDE = """
import os, sys
def note(event, arguments):
    if event in ("open", "import"):
        os.write(2, f"{os.getpid()} {event} {arguments[0]}\\n".encode())
sys.addaudithook(note)
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which a bundle has been made, which is complete: all modules have byte code."""
    compileall.compile_dir(str(ROOT / "pyvmm"), quiet=1)
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
    loading = launcher(LOADING) + RUN
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
    bundle = Contents(made(environment))

    for modules, budget in ((bundle.parents, PARENT), (bundle.machines, VM_PROCESS)):
        assert len(modules) <= budget.modules
        assert sum(definitions(code) for _, _, _, code in modules if code is not None) <= budget.definitions


@pytest.mark.kvm
def test_start_with_a_bundle_opens_few_files_and_imports_nothing_of_pyvmm_beside_it(
    environment: dict[str, str],
) -> None:
    done = start("from pyvmm.cli.main import entry\nentry()\n", environment, PRELUDE)

    assert done.returncode == PASSED, done
    noted: dict[str, list[tuple[str, str]]] = {}
    for line in done.stderr.splitlines():
        process, event, name = line.split(" ", 2)
        noted.setdefault(process, []).append((event, name))
    assert len(noted) == 2, done.stderr
    for events, budget in zip(noted.values(), (PARENT, VM_PROCESS), strict=True):
        opened = [name for event, name in events if event == "open"]
        assert len(opened) <= budget.files, opened
        ours = {Path(name).name.split(".")[0] for name in opened if name.startswith(str(ROOT / "pyvmm"))}
        assert ours <= {"__init__", "bundle"}
        imported = {name for event, name in events if event == "import" and name.startswith("pyvmm")}
        assert imported <= {"pyvmm", "pyvmm.bundle"}


@pytest.mark.kvm
def test_run_of_firmware_loads_no_package_of_others_and_no_room_off_its_way(
    environment: dict[str, str],
) -> None:
    done = start(LOADED + "from pyvmm.cli.main import entry\nentry()\n", environment)

    assert done.returncode == PASSED, done
    parent, vm_process = sorted((set(line.split()) for line in done.stderr.splitlines()), key=len)
    for loaded in (parent, vm_process):
        ours = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
        assert ours <= {"pyvmm", "__main__"}
        rooms = {name.split(".")[1] for name in loaded if name.startswith("pyvmm.")}
        assert rooms.isdisjoint({"exec", "guest", "images", "lab", "testing", "virtio"})
        assert {f"pyvmm.cli.{verb}" for verb in ("doctor", "image", "lab", "exec")}.isdisjoint(loaded)
        assert loaded.isdisjoint({"pyvmm.machine.diagnose", "site"})
    assert "pyvmm.machine.machine" in vm_process
    found = {name for name in parent if name.startswith(MACHINES)}
    assert found <= {"pyvmm.machine", "pyvmm.machine.ending", "pyvmm.machine.host_side"}


def test_import_of_the_package_loads_nothing_of_it() -> None:
    code = f"import sys; sys.path.append({str(ROOT)!r}); import pyvmm; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )

    assert {name for name in done.stdout.split() if name.startswith("pyvmm")} == {"pyvmm"}
