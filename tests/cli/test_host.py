"""Hosts without KVM, with one we may not use, or with something else in its place; and the doctor there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.arch.x86_64.host import PVM, virtualization
from tests.support.command import EXIT, LIMIT, MODULE, complains, environment, pyvmm

pytestmark = pytest.mark.timeout(120)

RUN = ("run", "--firmware", EXIT, "--console", "none", "--memory", "1M")


@pytest.fixture(scope="module", autouse=True)
def _own_mounts() -> None:
    """A mount namespace of our own, to put something else over /dev/kvm."""
    if not os.path.exists("/dev/kvm"):
        return
    tried = subprocess.run(["unshare", "-m", "mount", "--bind", "/dev/null", "/dev/kvm"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"no mount namespace of our own here: {tried.stderr.decode().strip()}")


def with_kvm(change: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run pyvmm where the shell command *change* was carried out in a mount namespace of its own."""
    script = f'{change} || exit 99; exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *MODULE, *arguments],
        capture_output=True,
        timeout=LIMIT,
        env=environment(),
        check=False,
    )


#: What takes /dev/kvm away, and what the message says.
ABSENT = "mount -t tmpfs none /dev && mknod /dev/null c 1 3"
OTHER = "mount --bind /dev/null /dev/kvm"


def forbidden(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run pyvmm where /dev/kvm has mode 000 and root's privileges, which override that, are gone."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not here (Debian: util-linux)")
    script = f'{ABSENT} && mknod -m 000 /dev/kvm c 10 232 || exit 99; exec setpriv --bounding-set=-all "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *MODULE, *arguments],
        capture_output=True,
        timeout=LIMIT,
        env=environment(),
        check=False,
    )


def test_run_when_there_is_no_kvm_says_what_to_do() -> None:
    complains(with_kvm(ABSENT, *RUN), 64, "/dev/kvm", "ENOENT", "modprobe")


def test_run_when_something_else_is_in_its_place_says_so() -> None:
    complains(with_kvm(OTHER, *RUN), 64, "/dev/kvm", "not KVM's device")


def test_run_when_kvm_is_forbidden_says_what_to_do() -> None:
    complains(forbidden(*RUN), 64, "/dev/kvm", "EACCES", "kvm")


@pytest.mark.parametrize("more", [[], ["--exec", "true"]])
def test_run_when_there_is_no_kvm_says_so_before_it_fetches_a_guest(tmp_path: Path, more: list[str]) -> None:
    done = with_kvm(f"export PYVMM_CACHE={tmp_path} && {ABSENT}", "run", *more)

    complains(done, 64, "/dev/kvm", "ENOENT")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".bundle"] == []


@pytest.mark.kvm
@pytest.mark.skipif(virtualization() != PVM, reason="this KVM runs ring 0 in hardware")
@pytest.mark.parametrize("more", [[], ["--exec", "true"]])
def test_run_when_kvm_emulates_ring_0_says_so_once_and_before_it_fetches_a_guest(
    tmp_path: Path, more: list[str]
) -> None:
    # Without a network nothing can be fetched.
    script = f'export PYVMM_CACHE={tmp_path}; exec "$@"'
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script, "sh", *MODULE, "run", *more],
        capture_output=True,
        timeout=LIMIT,
        env=environment(),
        check=False,
        text=True,
    )

    lines = done.stderr.splitlines()
    assert done.returncode == 64, done
    assert lines[0].startswith("pyvmm: this host's KVM (PVM) emulates ring 0"), done
    assert lines[0].endswith("boots kernels"), done
    assert len(lines) > 1 and not any("ring 0" in line for line in lines[1:]), done


def test_run_when_there_is_no_kvm_and_the_firmware_is_missing_names_one_of_them() -> None:
    complains(with_kvm(ABSENT, "run", "--firmware", "/nowhere/rom.bin"), 64)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_doctor_when_there_is_no_kvm_says_so_with_code_64(flags: list[str]) -> None:
    done = with_kvm(ABSENT, "doctor", *flags)

    assert (done.returncode, done.stderr) == (64, b"")
    if flags:
        told = json.loads(done.stdout)
        assert told["can_run"] is False
        assert {"name": "/dev/kvm", "status": "missing"}.items() <= told["findings"][2].items()
    else:
        assert b"A guest cannot run on this host." in done.stdout
        assert b"pyvmm lab" in done.stdout


def test_doctor_when_kvm_is_forbidden_says_so_with_code_64() -> None:
    done = forbidden("doctor")

    assert (done.returncode, done.stderr) == (64, b"")
    assert b"EACCES" in done.stdout


@pytest.mark.kvm
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_doctor_when_a_guest_can_run_says_so_with_code_0(flags: list[str]) -> None:
    done = pyvmm("doctor", *flags)

    assert (done.returncode, done.stderr) == (0, b"")
    if flags:
        told = json.loads(done.stdout)
        assert told["can_run"] is True
        assert all({"name", "status", "value", "advice"} == set(finding) for finding in told["findings"])
    else:
        assert b"A guest can run on this host." in done.stdout


@pytest.mark.parametrize(
    ("mode", "status", "advice"),
    [
        (None, "ok", ""),
        (0o755, "ok", ""),
        (0o775, "limited", "`chmod go-w '{path}'`: no code and no guest is taken from it as it is"),
        (0o707, "limited", "`chmod go-w '{path}'`: no code and no guest is taken from it as it is"),
    ],
)
def test_doctor_when_others_may_write_the_cache_tells_how_to_mend_it(
    mode: int | None, status: str, advice: str, tmp_path: Path
) -> None:
    path = tmp_path / "the cache"
    if mode is not None:
        path.mkdir()
        path.chmod(mode)

    done = pyvmm("doctor", "--json", env={**environment(), "PYVMM_CACHE": str(path)})

    finding = json.loads(done.stdout)["findings"][-1]
    assert (finding["name"], finding["status"]) == ("cache", status)
    assert finding["advice"] == advice.format(path=path)


def test_doctor_when_stdout_is_broken_is_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run([*MODULE, "doctor"], stdout=writer, stderr=subprocess.PIPE, env=environment())
    os.close(writer)

    assert done.stderr == b""


@pytest.mark.kvm
def test_run_when_the_host_gives_few_descriptors_says_one_line(tmp_path: Path) -> None:
    script = 'ulimit -n 6; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *MODULE, *RUN], capture_output=True, timeout=LIMIT, env=environment()
    )

    complains(done, 64, "Too many open files")


@pytest.mark.kvm
def test_run_when_the_host_gives_little_address_space_says_one_line() -> None:
    script = 'ulimit -v 300000; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *MODULE, *RUN[:-1], "1G"],
        capture_output=True,
        timeout=LIMIT,
        env=environment(),
    )

    complains(done, 64, "1G", "ask for less")
