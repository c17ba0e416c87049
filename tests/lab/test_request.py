"""What is asked of the lab, checked before anything starts."""

from __future__ import annotations

import os
import tempfile

import pytest

from pyvmm import lab
from pyvmm.cli import lab as cli
from pyvmm.cli.main import main
from pyvmm.errors import ConfigError
from pyvmm.lab import environment, machine
from pyvmm.lab.errors import LabError


def test_parse_when_the_command_has_options_leaves_them_alone():
    options = cli.parse(["x86_64", "--memory", "1G", "--", "pytest", "--timeout", "3", "--", "x"])

    assert options.command == ["pytest", "--timeout", "3", "--", "x"]
    assert options.memory == 1 << 30
    assert options.timeout is None


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["x86_64"], "no command"),
        (["x86_64", "true"], "after `--`"),
        (["--wrong", "--", "true"], "--wrong"),
        (["--memory", "lots", "--", "true"], "--memory"),
        (["--cpus", "two", "--", "true"], "--cpus"),
        (["arm", "--", "true"], "'arm'"),
        (["--cpus", "0", "--", "true"], "1 to 255"),
        (["--memory", "1M", "--", "true"], "256M"),
        (["--rw", "/no/such/place", "--", "true"], "/no/such/place"),
        (["--expose", "/no/such/place", "--", "true"], "/no/such/place"),
    ],
)
def test_main_when_the_request_is_wrong_says_so_in_one_line_and_exits_65(argv, word, capfd):
    code = main(["lab", *argv])

    error = capfd.readouterr().err
    assert code == 65
    assert error.count("\n") == 1
    assert word in error


def test_main_when_asked_for_help_prints_it(capfd):
    assert main(["lab", "--help"]) == 0
    assert "--fresh" in capfd.readouterr().out


def test_main_when_help_is_an_option_of_the_command_does_not_take_it():
    assert cli.parse(["--", "ls", "--help"]).command == ["ls", "--help"]


def test_find_qemu_when_it_is_not_installed_names_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(LabError, match="apt install qemu-system-x86"):
        machine.find_qemu()


def test_available_when_qemu_is_missing_gives_the_reason(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("PYVMM_LAB", raising=False)

    able, reason = lab.available()

    assert not able
    assert "qemu-system-x86" in reason


def test_available_when_in_the_lab_already_is_false(monkeypatch):
    monkeypatch.setenv("PYVMM_LAB", "x86_64")

    assert lab.available()[0] is False


def test_state_directory_when_others_may_enter_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "pyvmm-lab").mkdir()
    (tmp_path / "pyvmm-lab").chmod(0o755)

    with pytest.raises(LabError, match="this user alone"):
        machine.state_directory()


def test_state_directory_when_too_long_for_a_socket_is_refused(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))

    with pytest.raises(LabError, match="too long"):
        machine.state_directory()


def test_key_when_the_request_differs_is_another():
    assert machine.wanted(cpus=1).key != machine.wanted(cpus=2).key
    assert machine.wanted(cpus=1).key == machine.wanted(cpus=1).key


def test_family_when_only_the_version_differs_is_the_same():
    one = machine.LabMachine(version="1")
    other = machine.LabMachine(version="2")

    assert one.family == other.family
    assert one.key != other.key


def test_state_directory_when_made_belongs_to_the_user_alone(monkeypatch):
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)

        assert machine.state_directory().stat().st_mode & 0o777 == 0o700


def test_places_when_the_working_directory_is_in_one_leave_it_out():
    assert "/usr/lib" in environment.places("/")
    assert "/usr/lib" not in environment.places("/usr/lib/tmpfiles.d")


def test_fingerprint_when_a_package_is_installed_changes(tmp_path):
    library = tmp_path / "lib"
    packages = library / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    os.utime(packages, (1, 1))
    before = environment.fingerprint((str(library),))
    (packages / "new").mkdir()

    assert environment.fingerprint((str(library),)) != before


def test_fingerprint_when_nothing_changed_is_the_same(tmp_path):
    assert environment.fingerprint((str(tmp_path),)) == environment.fingerprint((str(tmp_path),))


def test_variables_when_they_mean_nothing_in_the_lab_are_left_out(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("KEPT", "yes")

    variables = environment.variables()

    assert "DISPLAY" not in variables
    assert (variables["KEPT"], variables["PYVMM_LAB"]) == ("yes", "x86_64")


def test_variables_when_they_look_like_secrets_are_left_out_unless_given(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "x")
    monkeypatch.setenv("MYTOKEN_FILE", "kept: no word of it")
    monkeypatch.setenv("REGISTRY_TOKEN", "x")
    monkeypatch.setenv("INDEX_URL", "https://user:word@example.org/simple")
    monkeypatch.setenv("PROXY", "http://example.org:3128")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "A")

    ours = environment.variables()

    assert not {"SOME_API_KEY", "REGISTRY_TOKEN", "INDEX_URL"} & ours.keys()
    assert {"MYTOKEN_FILE", "PROXY", "GIT_AUTHOR_NAME", "PATH", "HOME"} <= ours.keys()
    assert environment.variables({"REGISTRY_TOKEN": "x"})["REGISTRY_TOKEN"] == "x"


def test_key_when_a_hidden_path_is_exposed_or_named_is_another(monkeypatch, tmp_path):
    (tmp_path / ".config").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    place = str(tmp_path / ".config")

    keys = {machine.wanted().key, machine.wanted(exposed=(place,)).key, machine.wanted(words=("ls", "x")).key}

    assert len(keys) == 2
    assert machine.wanted(exposed=(place,)).key == machine.wanted(words=("ls", place)).key


def test_wanted_when_the_architecture_is_unknown_names_those_there_are():
    with pytest.raises(ConfigError, match="x86_64"):
        machine.wanted("mips")
