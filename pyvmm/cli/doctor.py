"""``pyvmm doctor``: what this host can do, and what to do about what it cannot."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from pyvmm.arch import native
from pyvmm.cli.arguments import Parser
from pyvmm.errors import PyvmmError
from pyvmm.host.cache import cache_directory
from pyvmm.lab.architecture import ARCHITECTURES, Architecture
from pyvmm.pykvm import Kvm
from pyvmm.pykvm.kvm import API_VERSION

OK = "ok"
LIMITED = "limited"
MISSING = "missing"
#: What the kernel calls the architectures with machines of ours.
MACHINES = ("x86_64", "aarch64")
CAN_RUN = 0
CANNOT_RUN = 64


@dataclass
class Finding:
    """One row: what was looked at, how it stands, and what to do about it."""

    name: str
    status: str
    value: str
    advice: str = ""


def main(argv: list[str]) -> int:
    """Run ``pyvmm doctor``; 0 when a guest can run here, 64 when none can."""
    arguments = parser().parse_args(argv)
    findings, able = examine()
    if arguments.json:
        print(json.dumps({"can_run": able, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.status:8} {finding.name:{width}}  {finding.value}")
            if finding.advice:
                print(f"{'':8} {'':{width}}  -> {finding.advice}")
        print(f"\nA guest {'can' if able else 'cannot'} run on this host.")
    return CAN_RUN if able else CANNOT_RUN


def parser() -> Parser:
    """The command line of ``pyvmm doctor``."""
    doctor = Parser(prog="pyvmm doctor", description="What this host can do, and what to do about the rest.")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    return doctor


def examine() -> tuple[list[Finding], bool]:
    """Every finding, and whether a guest can run."""
    findings = [_python(), _machine()]
    kvm_findings, able = _kvm()
    findings += kvm_findings
    findings += [_device("/dev/net/tun", "tap networking"), *map(_vhost, ("net", "vsock"))]
    findings += [_huge_pages(), _transparent_huge_pages(), _memory(), _sandbox()]
    findings += [*map(_lab, ARCHITECTURES.values()), _apt(), _host_kernel(), _busybox(), _cache()]
    return findings, able


def _python() -> Finding:
    return Finding("Python", OK, platform.python_version())


def _machine() -> Finding:
    machine = platform.machine()
    if machine in MACHINES:
        return Finding("architecture", OK, machine)
    return Finding("architecture", MISSING, machine, f"guests run on {' and '.join(MACHINES)} hosts")


def _kvm() -> tuple[list[Finding], bool]:
    try:
        kvm = Kvm()
    except PyvmmError as error:
        advice = f"`pyvmm lab {native.NAME} -- pyvmm run ...` runs guests on an emulated KVM host meanwhile"
        return [Finding("/dev/kvm", MISSING, str(error), advice)], False
    with kvm:
        findings = [Finding("/dev/kvm", OK, f"API version {API_VERSION}")]
        able = platform.machine() in MACHINES
        host = native.host()
        if able:
            try:
                speed = f"{host.ring0_speed(kvm) / 1e6:.3g} million kernel-mode instructions a second"
            except PyvmmError as error:
                speed, able = str(error), False
            whole, value, advice = host.describe_virtualization(speed)
            findings.append(Finding("virtualization", OK if whole else LIMITED, value, advice))
            findings += [Finding(name, OK, value) for name, value in host.extras(kvm)]
        absent = [name for name in host.NEEDED if not kvm.check_extension(name)]
        if absent:
            able = False
            findings.append(
                Finding("KVM, needed", MISSING, f"lacks {', '.join(absent)}", "a newer host kernel is needed")
            )
        else:
            findings.append(Finding("KVM, needed", OK, ", ".join(host.NEEDED)))
        lacking = [name for name in host.USED if not kvm.check_extension(name)]
        present = ", ".join(name for name in host.USED if name not in lacking)
        findings.append(
            Finding("KVM, used", LIMITED, f"lacks {', '.join(lacking)}; has {present}")
            if lacking
            else Finding("KVM, used", OK, present)
        )
        findings.append(Finding("virtual CPUs", OK, f"at most {kvm.check_extension('MAX_VCPUS')} in a guest"))
        return findings, able


def _device(path: str, purpose: str) -> Finding:
    if not os.path.exists(path):
        return Finding(path, MISSING, f"no {path}", f"{purpose} needs it: load its kernel module")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding(path, MISSING, "no permission", f"{purpose} needs it: ask for access to {path}")
    return Finding(path, OK, f"usable, for {purpose}")


def _vhost(kind: str) -> Finding:
    path = f"/dev/vhost-{kind}"
    if not os.path.exists(path):
        return Finding(path, LIMITED, "absent", f"`modprobe vhost_{kind}` offers it where the kernel has it")
    return _device(path, f"vhost-{kind}")


def _huge_pages() -> Finding:
    try:
        total = int(Path("/proc/sys/vm/nr_hugepages").read_text())
    except (OSError, ValueError):
        return Finding("huge pages (hugetlb)", LIMITED, "the kernel has none")
    if not total:
        return Finding(
            "huge pages (hugetlb)",
            LIMITED,
            "none set aside",
            "`sysctl vm.nr_hugepages=N` sets N x 2 MiB aside",
        )
    return Finding("huge pages (hugetlb)", OK, f"{total} set aside")


def _transparent_huge_pages() -> Finding:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return Finding(
            "huge pages (transparent)", LIMITED, "the kernel has none: guests take more page faults"
        )
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "never":
        advice = "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` allows them"
        return Finding("huge pages (transparent)", LIMITED, "never", advice)
    return Finding("huge pages (transparent)", OK, mode)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    return Finding(
        "host", OK, f"{os.cpu_count()} CPUs, {memory.available >> 20} of {memory.total >> 20} MiB free"
    )


def _sandbox() -> Finding:
    from pyvmm.host.sandbox import lacking_here

    try:
        lacking = lacking_here()
    except OSError as error:
        return Finding("sandbox", LIMITED, str(error))
    if not lacking:
        return Finding(
            "sandbox", OK, "namespaces, empty root, no capabilities, Landlock, limits, seccomp: all of it"
        )
    advice = (
        "a newer kernel, or one with Landlock and seccomp, has these steps; for namespaces, allow this user "
        "its own (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
    )
    return Finding("sandbox", LIMITED, f"without {'; '.join(lacking)}", advice)


def _lab(architecture: Architecture) -> Finding:
    name = f"lab {architecture.name}"
    if shutil.which(architecture.qemu):
        return Finding(name, OK, f"{architecture.qemu} is here: `pyvmm {name} -- CMD`")
    return Finding(name, MISSING, f"no {architecture.qemu}", f"install Debian's {architecture.package}")


def _apt() -> Finding:
    if shutil.which("apt-get"):
        return Finding("guest packages", OK, "apt-get is here: `pyvmm image fetch`")
    return Finding(
        "guest packages", LIMITED, "no apt-get", "`pyvmm run` boots this host's own kernel instead"
    )


def _host_kernel() -> Finding:
    from pyvmm.images.host_kernel import host_kernel

    try:
        found = host_kernel()
    except PyvmmError as error:
        return Finding("host kernel", LIMITED, f"not for guests: {error}")
    return Finding("host kernel", OK, f"{found.image}, for `pyvmm run --kernel host`")


def _busybox() -> Finding:
    from pyvmm.images.busybox import PACKAGE, find_busybox
    from pyvmm.images.debian import fetched

    name = "guest busybox"
    if f"{native.DEBIAN}/{PACKAGE}" in fetched():
        return Finding(name, OK, f"Debian's {PACKAGE}, fetched")
    path = find_busybox()
    if path is not None:
        return Finding(name, OK, path)
    if shutil.which("apt-get"):
        return Finding(name, OK, f"{PACKAGE} will be fetched by apt-get")
    advice = "with a kernel that is not Debian's, guests have a shell only with a static busybox: install one"
    return Finding(name, LIMITED, "none that is static", advice)


def _cache() -> Finding:
    path = cache_directory()
    if path is None:
        return Finding("cache", LIMITED, "no home directory", "set PYVMM_CACHE to a directory of yours")
    try:
        status = os.stat(path)
    except OSError:
        return Finding("cache", OK, f"{path}, made by the first start")
    if status.st_uid != os.geteuid():
        advice = "set PYVMM_CACHE to a directory of yours: no guest is taken from another user's"
        return Finding("cache", LIMITED, f"{path} is another user's", advice)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = f"`chmod go-w {shlex.quote(path)}`: no code and no guest is taken from it as it is"
        return Finding("cache", LIMITED, f"others may write {path}", advice)
    return Finding("cache", OK, path)
