"""What the way to a guest's first instruction does not load."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ROOT / "scripts" / "pyvmm"
PASSED = 32

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]


def kept_out() -> set[str]:
    """The modules that docs/architecture.md says are not imported."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## Start-up is a feature")[2].partition("\n## ")[0]
    return set(re.findall(r"`([a-z]+)`", section.partition("*not* imported:")[2].partition("They cost")[0]))


def as_the_launcher(ending: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher's Python, flags and all, with *ending* in place of its last line."""
    script = LAUNCHER.read_text()
    flags, code = re.findall(r"exec \"\$python\" (.*?) -c '\n(.*?)' \"\$@\"", script, re.DOTALL)[0]
    assert code.endswith("\nentry()\n")
    code = code.removesuffix("entry()\n") + ending
    return subprocess.run(
        [sys.executable, *flags.split(), "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        check=False,
    )


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """All modules of a process in which firmware ran to its end."""
    ending = (
        "from pyvmm.cli.main import main\ncode = main(sys.argv[1:])\nprint(*sys.modules)\nsys.exit(code)\n"
    )
    firmware = str(ROOT / "firmware" / "x86_64" / "bin" / "exit.bin")

    done = as_the_launcher(ending, "run", "--firmware", firmware, "--console", "none")

    assert (done.returncode, done.stderr) == (PASSED, ""), done
    return set(done.stdout.split())


def test_list_in_the_architecture_has_the_modules_that_cost() -> None:
    assert kept_out() >= {"typing", "dataclasses", "enum", "re", "argparse", "pathlib", "tomllib", "asyncio"}


def test_run_of_firmware_loads_no_module_that_is_kept_out(loaded: set[str]) -> None:
    assert loaded & kept_out() == set()


def test_run_of_firmware_loads_no_package_of_others(loaded: set[str]) -> None:
    packages = {name.partition(".")[0] for name in loaded}

    assert packages - set(sys.stdlib_module_names) <= {"pyvmm", "__main__"}


def test_run_of_firmware_loads_no_room_off_its_way(loaded: set[str]) -> None:
    rooms = {name.split(".")[1] for name in loaded if name.count(".") and name.startswith("pyvmm.")}

    assert rooms.isdisjoint({"guests", "lab"})
    assert {f"pyvmm.cli.{verb}" for verb in ("doctor", "image", "lab", "exec")}.isdisjoint(loaded)
    assert "pyvmm.machine.diagnose" not in loaded
    assert "site" not in loaded


def test_import_of_the_package_loads_nothing_of_it(tmp_path: Path) -> None:
    code = f"import sys; sys.path.append({str(ROOT)!r}); import pyvmm; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )

    assert {name for name in done.stdout.split() if name.startswith("pyvmm")} == {"pyvmm"}
