"""The arm64 host: what is asked of it on any machine, and one command on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pyvmm import lab
from pyvmm.arch import native
from pyvmm.lab import architecture, environment, image, inside, machine, system
from tests.support.require import unavailable

foreign = pytest.mark.skipif(native.NAME == "arm64", reason="this machine's programs run there")


def test_wanted_when_it_is_the_other_architecture_is_another_machine() -> None:
    assert machine.wanted("arm64").key.startswith("arm64-")
    assert machine.wanted("arm64").key != machine.wanted("x86_64").key


@foreign
def test_wanted_when_its_programs_are_others_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.wanted("arm64")
    monkeypatch.setattr(system, "PACKAGES", system.PACKAGES[1:])

    after = machine.wanted("arm64")

    assert (after.family, after.key == before.key) == (before.family, False)


@foreign
def test_command_when_programs_are_foreign_offers_a_system_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "find_qemu", lambda arch: "qemu")
    wanted = machine.wanted("arm64", memory=1 << 30)

    line = machine.command(wanted, image.Image(Path("/k"), Path("/i"), Path("/s")), Path("/run"))

    assert any("virtualization=on" in word for word in line)
    assert any("mount_tag=system" in word for word in line)
    assert any("path=/s," in word for word in line)


@foreign
def test_command_when_a_path_has_a_comma_doubles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_qemu", lambda arch: "qemu")
    wanted = machine.wanted("x86_64")

    line = machine.command(wanted, image.Image(Path("/k"), Path("/i"), Path("/s,t")), Path("/run,d"))

    assert any("path=/s,,t,security" in word for word in line)
    assert any("path=/run,,d/c0,server" in word for word in line)


def test_renew_command_when_programs_are_foreign_names_data_and_interpreter() -> None:
    words = machine.renew_command(machine.wanted("arm64"), 3)

    assert words[:3] == ["sh", "/etc/pyvmm/view", "3"]
    assert "/usr/lib" not in words
    if sys.prefix != sys.base_prefix:
        assert words[-2:] == ["python", os.path.realpath(sys.prefix)]


@foreign
def test_wanted_when_the_virtual_environment_is_reached_by_a_link_names_its_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "venv")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))

    assert machine.wanted("arm64").python == str(tmp_path / "venv")


def test_own_directories_leave_programs_devices_and_state_out() -> None:
    found = environment.own_directories()

    assert not {"/usr", "/etc", "/dev", "/proc", "/sys", "/var", "/bin"} & set(found)
    assert all(os.path.isdir(path) and not os.path.islink(path) for path in found)


@foreign
def test_variables_when_programs_are_foreign_find_compiled_packages_first() -> None:
    variables = environment.variables({"PYTHONPATH": "/mine"}, "arm64")

    assert variables["PYVMM_LAB"] == "arm64"
    assert variables["PYTHONPATH"].split(":")[:2] == [system.PYTHON_PACKAGES, "/mine"]


def test_find_qemu_when_it_is_not_installed_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(lab.LabError, match="apt install qemu-system-arm"):
        machine.find_qemu("arm64")


def test_view_when_foreign_is_the_other_script() -> None:
    scripts = {image.view_script(kind) for kind in architecture.ARCHITECTURES.values()}

    assert scripts == {inside.VIEW, inside.FOREIGN_VIEW}


@pytest.mark.lab
@pytest.mark.timeout(240)
def test_run_when_on_arm64_sees_this_machines_files_with_its_own_python(tmp_path: Path) -> None:
    able, reason = lab.available("arm64")
    if not able:
        unavailable("lab", reason)
    (tmp_path / "file").write_text("from here")
    program = "import os, sys; print(os.uname().machine, open(sys.argv[1]).read()); sys.exit(7)"

    done = lab.run([sys.executable, "-c", program, str(tmp_path / "file")], arch="arm64", timeout=120)

    assert (done.returncode, done.stdout) == (7, b"aarch64 from here\n"), done.stderr
