"""Where a test can run, and what it means when it cannot.

Markers: ``kvm`` needs /dev/kvm, ``arm64`` one of an arm64 host, ``hw`` a KVM that runs ring 0 in
hardware (the lab has one), ``lab`` starts the lab, ``net`` needs the package mirrors or what was
fetched before. A test that cannot run is skipped with the reason; PYVMM_REQUIRE=kvm,lab makes that a failure,
and PYVMM_REQUIRE=toolchain a skip for want of the compiler that the guest programs were built with.
"""

from __future__ import annotations

import signal

import pytest

from pyvmm.arch import native
from pyvmm.cli.report_handler import install
from pyvmm.errors import PyvmmError
from pyvmm.pykvm import Kvm
from tests.support.require import INSIDE_LAB, unavailable

# Commands under test inherit what is ignored: nohup and a shell's background jobs ignore some.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# What the library reports goes to standard error as it does with the command line.
install()

# No test of the lab is a property's, and to import hypothesis takes longer there than everything else.
if not INSIDE_LAB:
    from hypothesis import settings

    # How long an example takes depends on what else the machine does; pytest-timeout has the limit.
    settings.register_profile("pyvmm", deadline=None)
    settings.load_profile("pyvmm")


def _no_kvm() -> str | None:
    try:
        Kvm().close()
    except PyvmmError as error:
        return f"no usable KVM: {error}"
    return None


def _no_hardware() -> str | None:
    host = native.host()
    return _no_kvm() or (
        None
        if host.runs_ring0_in_hardware()
        else f"this machine's KVM is {host.virtualization()}: runs in the lab instead"
    )


def _no_lab() -> str | None:
    if INSIDE_LAB:
        return "this is the lab"
    from pyvmm.lab import available

    able, reason = available()
    return None if able else f"no lab: {reason}"


def _no_arm64() -> str | None:
    return _no_kvm() if native.NAME == "arm64" else "this is no arm64 machine: runs in the arm64 lab instead"


_CHECKS = {"arm64": _no_arm64, "kvm": _no_kvm, "hw": _no_hardware, "lab": _no_lab}


@pytest.fixture(scope="session", autouse=True)
def _reasons() -> dict[str, str | None]:
    return {}


@pytest.fixture(autouse=True)
def _where_it_can_run(request: pytest.FixtureRequest, _reasons: dict[str, str | None]) -> None:
    for mark, check in _CHECKS.items():
        if request.node.get_closest_marker(mark) is None:
            continue
        if mark not in _reasons:
            _reasons[mark] = check()
        reason = _reasons[mark]
        if reason is None:
            continue
        if mark == "lab" and INSIDE_LAB:
            pytest.skip(reason)
        # What needs hardware runs in the lab where this machine has none: requiring the lab requires it.
        unavailable("lab" if mark == "hw" else mark, reason)
