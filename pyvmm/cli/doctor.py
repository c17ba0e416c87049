"""``pyvmm doctor``: what this host can do, and what to do about what it cannot."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pyvmm.arch.x86_64.host import PVM, UNKNOWN, ring0_speed, virtualization
from pyvmm.cli.arguments import Parser
from pyvmm.errors import PyvmmError
from pyvmm.pykvm import Kvm
from pyvmm.pykvm.kvm import API_VERSION

OK = "ok"
LIMITED = "limited"
MISSING = "missing"
CAN_RUN = 0
CANNOT_RUN = 64

#: What a machine is built from; without one of these no guest runs.
NEEDED = (
    "IRQCHIP",
    "USER_MEMORY",
    "SET_TSS_ADDR",
    "SET_IDENTITY_MAP_ADDR",
    "PIT2",
    "IMMEDIATE_EXIT",
    "EXT_CPUID",
)
#: What makes guests faster or can be used by some of them.
USED = (
    "IOEVENTFD",
    "IRQFD",
    "IRQFD_RESAMPLE",
    "COALESCED_MMIO",
    "COALESCED_PIO",
    "READONLY_MEM",
    "TSC_DEADLINE_TIMER",
    "BINARY_STATS_FD",
    "XSAVE2",
    "SYNC_MMU",
)


@dataclass
class Finding:
    """One row: what was looked at, how it stands, and what to do about it."""

    name: str
    status: str
    value: str
    advice: str = ""


def main(argv: list[str]) -> int:
    """Run ``pyvmm doctor``; 0 when a guest can run here, 64 when none can."""
    parser = Parser(prog="pyvmm doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
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


def examine() -> tuple[list[Finding], bool]:
    """Every finding, and whether a guest can run."""
    findings = [_python(), _machine()]
    kvm_findings, able = _kvm()
    findings += kvm_findings
    findings += [_device("/dev/net/tun", "tap networking"), *map(_vhost, ("net", "vsock"))]
    findings += [_huge_pages(), _transparent_huge_pages(), _memory()]
    findings += [_lab(), _apt()]
    return findings, able


def _python() -> Finding:
    return Finding("Python", OK, platform.python_version())


def _machine() -> Finding:
    machine = platform.machine()
    if machine == "x86_64":
        return Finding("architecture", OK, machine)
    return Finding("architecture", MISSING, machine, "guests run on x86-64 hosts so far")


def _kvm() -> tuple[list[Finding], bool]:
    try:
        kvm = Kvm()
    except PyvmmError as error:
        advice = "`pyvmm lab x86_64 -- pyvmm run ...` runs guests on an emulated KVM host meanwhile"
        return [Finding("/dev/kvm", MISSING, str(error), advice)], False
    with kvm:
        findings = [Finding("/dev/kvm", OK, f"API version {API_VERSION}")]
        able = platform.machine() == "x86_64"
        kind = virtualization()
        if able:
            try:
                speed = f"{ring0_speed(kvm) / 1e6:.3g} million ring-0 instructions a second"
            except PyvmmError as error:
                speed, able = str(error), False
            findings.append(_virtualization(kind, speed))
        absent = [name for name in NEEDED if not kvm.check_extension(name)]
        if absent:
            able = False
            findings.append(
                Finding("KVM, needed", MISSING, f"lacks {', '.join(absent)}", "a newer host kernel is needed")
            )
        else:
            findings.append(Finding("KVM, needed", OK, ", ".join(NEEDED)))
        lacking = [name for name in USED if not kvm.check_extension(name)]
        present = ", ".join(name for name in USED if name not in lacking)
        findings.append(
            Finding("KVM, used", LIMITED, f"lacks {', '.join(lacking)}; has {present}")
            if lacking
            else Finding("KVM, used", OK, present)
        )
        findings.append(Finding("virtual CPUs", OK, f"at most {kvm.check_extension('MAX_VCPUS')} in a guest"))
        return findings, able


def _virtualization(kind: str, speed: str) -> Finding:
    if kind == PVM:
        return Finding(
            "virtualization",
            LIMITED,
            f"PVM, without VT-x or AMD-V: ring 0 is emulated, {speed}",
            "firmware and small guests run; boot stock kernels with `pyvmm lab x86_64 -- pyvmm run ...`",
        )
    if kind == UNKNOWN:
        return Finding("virtualization", OK, f"not known by its module; {speed}")
    return Finding("virtualization", OK, f"{kind}; {speed}")


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


def _lab() -> Finding:
    if shutil.which("qemu-system-x86_64"):
        return Finding("lab x86_64", OK, "qemu-system-x86_64 is here: `pyvmm lab x86_64 -- CMD`")
    advice = "install Debian's qemu-system-x86"
    return Finding("lab x86_64", MISSING, "no qemu-system-x86_64", advice)


def _apt() -> Finding:
    if shutil.which("apt-get"):
        return Finding("guest packages", OK, "apt-get is here: `pyvmm guest fetch`")
    return Finding(
        "guest packages", LIMITED, "no apt-get", "bring a kernel of your own: `pyvmm run --kernel FILE`"
    )
