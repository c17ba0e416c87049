"""What of this machine's files the lab hides, and what a command sees all the same."""

from __future__ import annotations

import pytest

from pyvmm.lab import exposure


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home with a secret file, a secret directory, and a cache; the working directory is beside it."""
    path = tmp_path / "home"
    for name in (".ssh", ".cache/pyvmm", ".cache/browser", ".pyenv/shims", "work"):
        (path / name).mkdir(parents=True)
    (path / ".ssh" / "id").touch()
    (path / ".netrc").touch()
    (path / ".link").symlink_to(path / "work")
    monkeypatch.setenv("HOME", str(path))
    for name in ("PYVMM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(path / "work")
    return path


def inside(home, paths):
    return [path.removeprefix(f"{home}/") for path in paths if path.startswith(f"{home}/")]


def test_hidden_when_names_in_a_home_begin_with_a_dot_has_them_but_programs_and_links(home):
    assert inside(home, exposure.hidden()) == [".cache", ".netrc", ".ssh"]


def test_digest_when_a_directory_comes_changes_and_for_a_file_does_not(home):
    before = exposure.digest()
    (home / ".history").touch()
    with_file = exposure.digest()
    (home / ".gnupg").mkdir()

    assert before == with_file
    assert exposure.digest() != before


def test_needed_when_nothing_is_named_has_the_cache_and_nothing_secret(home):
    assert inside(home, exposure.needed()) == [".cache/pyvmm"]


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["cat", "../.netrc"], ".netrc"),
        (["sh", "{home}/.ssh/id"], ".ssh/id"),
        (["ls", "{home}/.ssh", "{home}/.nothing"], ".ssh"),
    ],
)
def test_needed_when_the_command_names_a_path_has_it(home, words, seen):
    assert seen in inside(home, exposure.needed([word.format(home=home) for word in words]))


def test_needed_when_work_is_done_in_a_hidden_checkout_has_all_of_it(home):
    checkout = home / ".src" / "project"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "tests").mkdir()

    assert ".src/project" in inside(home, exposure.needed(directory=str(checkout / "tests")))


def test_needed_when_path_leads_into_a_virtual_environment_has_the_whole_of_it(home, monkeypatch):
    for name in (".local/bin", ".venv/bin"):
        (home / name).mkdir(parents=True)
    (home / ".venv" / "pyvenv.cfg").touch()
    monkeypatch.setenv("PATH", f"{home}/.local/bin:{home}/.venv/bin:/usr/bin")

    assert inside(home, exposure.needed()) == [".cache/pyvmm", ".local/bin", ".venv"]


def test_needed_when_a_link_in_a_hidden_place_leads_out_of_it_has_the_link(home, monkeypatch):
    (home / "programs").mkdir()
    (home / ".profile.d").mkdir()
    (home / ".profile.d" / "bin").symlink_to(home / "programs")
    monkeypatch.setenv("PATH", f"{home}/.profile.d/bin")

    assert ".profile.d/bin" in inside(home, exposure.needed())


def test_plan_when_places_lie_in_each_other_covers_and_shows_the_outer_ones_first():
    covers = ["/h/.a", "/h/.a/home/.ssh", "/run"]
    exposed = ["/h/.a/home", "/h/.a/home/work", "/h/open", "/run/x"]

    assert exposure.plan(covers, exposed) == [
        ("/run", True),
        ("/h/.a", True),
        ("/run/x", False),
        ("/h/.a/home", False),
        ("/h/.a/home/.ssh", True),
    ]


def test_plan_when_a_hidden_place_is_shown_itself_leaves_it_alone():
    assert exposure.plan(["/h/.a"], ["/h/.a"]) == []
