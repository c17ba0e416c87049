"""The wheel: what is in it, and that pyvmm works when installed from it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pyvmm
from pyvmm.arch import native
from pyvmm.images import initramfs
from pyvmm.lab import architecture
from tests.support.require import unavailable

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("hatchling") is None:
        unavailable("toolchain", "no hatchling to build the wheel with: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel; not its dependencies, which firmware needs not."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, str(wheel)], check=True)
    return place


def test_wheel_when_listed_has_the_package_the_command_and_nothing_else(names: list[str]) -> None:
    others = [name for name in names if not name.startswith("pyvmm/") and ".dist-info/" not in name]
    assert others == [f"pyvmm_kvm-{pyvmm.__version__}.data/scripts/pyvmm"]
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pyvmm").rglob("*.py")}
    assert modules <= set(names)
    assert not [name for name in names if "tests" in name or name.endswith((".c", ".h", ".S", ".md"))]


def test_wheel_when_listed_has_every_guest_program_that_pyvmm_uses(names: list[str]) -> None:
    machines = {"amd64": "x86_64", "arm64": "aarch64"}
    used = {f"guest/init/pyvmm-init.{machine}" for machine in machines.values()}
    for host in architecture.ARCHITECTURES.values():
        used |= {f"{path}.{machines[host.debian]}" for path in host.helpers}

    assert {f"pyvmm/firmware/{name}" for name in used} <= set(names)


def test_init_when_installed_is_found_by_the_package(installed: Path) -> None:
    script = "from pyvmm.images import initramfs; print(len(initramfs.init_program('arm64')))"
    python = installed / "bin" / "python"

    done = subprocess.run(
        [python, "-I", "-c", script], cwd=installed, capture_output=True, text=True, check=True
    )

    assert int(done.stdout) == len(initramfs.init_program("arm64"))


@pytest.mark.kvm
def test_command_when_installed_runs_the_firmware_that_came_with_it(installed: Path) -> None:
    name = "hello" if native.NAME == "arm64" else "hello0"
    [rom] = installed.glob(f"lib/python*/site-packages/pyvmm/firmware/{native.NAME}/bin/{name}.bin")

    done = subprocess.run(
        [installed / "bin" / "pyvmm", "run", "--timeout", "20s", "--firmware", rom],
        cwd=installed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout.replace("\r", "")) == (32, f"ok {name}\n"), done.stderr
