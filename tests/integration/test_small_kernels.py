"""Kernels that are no Linux, started by the command line as their users start them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.machine.ending import GUEST_FIRST
from tests.support.command import pyvmm
from tests.support.images import pe
from tests.support.small_kernels import VIDEO_MODE, comparing_ioapic_ids, printing, with_interpreter

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

#: By the device's number and its interrupt.
DEVICE = "virtio_mmio.device=4K@0xd000{:x}000:{}"


def run(tmp_path: Path, image: bytes, *options: str) -> tuple[int, str, str]:
    """The exit code of ``pyvmm run``, what the kernel wrote, what pyvmm did."""
    path = tmp_path / "kernel"
    path.write_bytes(image)
    done = pyvmm("run", "--kernel", str(path), "--timeout", "20s", *options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_kernel_when_it_names_an_interpreter_and_has_a_pvh_note_runs(tmp_path: Path) -> None:
    assert run(tmp_path, with_interpreter(1))[0] == GUEST_FIRST + 1


@pytest.mark.parametrize("cpus", [1, 2, 16])
def test_mp_table_when_a_kernel_looks_there_has_the_id_that_the_io_apic_has(
    tmp_path: Path, cpus: int
) -> None:
    # Teaching kernels compare the two: "id isn't equal to ioapicid; not a MP".
    assert run(tmp_path, comparing_ioapic_ids(), "--cpus", str(cpus))[0] == GUEST_FIRST


def test_kernel_when_it_wishes_for_a_video_mode_runs_with_a_warning(tmp_path: Path) -> None:
    code, text, errors = run(tmp_path, printing(VIDEO_MODE), "--cmdline", "hello")

    assert (code, text.strip()) == (GUEST_FIRST, "hello")
    assert "asks for a video mode, and this machine has no display" in errors


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "kernel"),  # the file's name and nothing that is Linux's
        (["--cmdline", ""], ""),
        (["--cmdline", "hello"], "hello"),
        (["--cmdline", "hello", "--rng", "--virtio-cmdline", "on"], f"hello {DEVICE.format(0, 16)}"),
        (
            ["--cmdline", "hello", "--rng", "--balloon", "--virtio-cmdline", "on"],
            f"hello {DEVICE.format(0, 16)} {DEVICE.format(1, 17)}",
        ),
        (["--cmdline", "a=1 -- b", "--rng", "--virtio-cmdline=on"], f"a=1 {DEVICE.format(0, 16)} -- b"),
        (["--cmdline", "", "--rng", "--virtio-cmdline", "on"], DEVICE.format(0, 16)),
        (["--cmdline", "hello", "--rng"], "hello"),
    ],
)
def test_command_line_when_devices_are_to_be_on_it_has_them_before_inits_arguments(
    tmp_path: Path, options: list[str], line: str
) -> None:
    assert run(tmp_path, printing(), *options)[:2] == (GUEST_FIRST, line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], f"console=ttyS0 {DEVICE.format(0, 16)} -- single"),
        (["--virtio-cmdline", "off"], "console=ttyS0 -- single"),
    ],
)
def test_command_line_when_the_kernel_has_linuxs_driver_for_it_has_the_devices(
    tmp_path: Path, options: list[str], line: str
) -> None:
    image = printing(behind=b"virtio-mmio-cmdline\0")

    assert run(tmp_path, image, "--rng", "--cmdline", "console=ttyS0 -- single", *options)[1] == line


def test_command_line_when_a_board_file_has_it_in_lines_is_one(tmp_path: Path) -> None:
    board = tmp_path / "vm.toml"
    board.write_text(
        'kernel = "kernel"\nrng = true\nvirtio_cmdline = "on"\ncmdline = """\n  a=1\n  b=2 -- c\n"""\n'
    )
    (tmp_path / "kernel").write_bytes(printing())

    done = pyvmm("run", str(board), "--timeout", "20s")

    assert (done.returncode, done.stdout.decode()) == (GUEST_FIRST, f"a=1 b=2 {DEVICE.format(0, 16)} -- c")


def test_command_line_when_it_is_too_long_with_its_devices_says_so(tmp_path: Path) -> None:
    options = ["--rng", "--virtio-cmdline", "on", "--boot", "elf", "--cmdline", "x" * 2040]
    code, _, errors = run(tmp_path, with_interpreter(1), *options)

    assert code == 64
    assert "has 2076 bytes, but at most 2047 are possible; shorten it (what pyvmm adds to it" in errors


def test_unified_kernel_image_when_run_has_its_own_initrd_and_command_line(tmp_path: Path) -> None:
    parts = [(".text", b"stub"), (".cmdline", b"root=none quiet\n"), (".initrd", b"x" * 5000)]
    unified = pe([*parts, (".linux", printing(behind=b"virtio-mmio-cmdline\0"))])

    assert run(tmp_path, unified)[:2] == (GUEST_FIRST, "console=ttyS0 panic=-1 pci=off root=none quiet")
    assert run(tmp_path, unified, "--cmdline", "mine")[:2] == (GUEST_FIRST, "mine")
    assert run(tmp_path, unified, "--cmdline", "a -- b", "--rng")[1] == f"a {DEVICE.format(0, 16)} -- b"


def test_pe_image_when_it_is_no_kernel_is_refused_by_what_it_is(tmp_path: Path) -> None:
    code, _, errors = run(tmp_path, pe([(".text", b"stub"), (".cmdline", b"quiet")]))

    assert code == 64
    assert "is an add-on of a unified kernel image for x86-64, with .cmdline and no .linux" in errors
