"""The arm64 guest programs, and how each ending is told."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pyvmm.arch.arm64 import host
from pyvmm.board.space import MMIO
from pyvmm.errors import PyvmmError
from pyvmm.pykvm import Kvm
from tests.support.firmware_guest import BIN, PASSED, Transcript, guest, passes
from tests.support.images import pe

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def gicv3() -> None:
    """Skips what drives a GICv3 where the host has none."""
    with Kvm() as kvm:
        if 3 not in host.gic_versions(kvm):
            pytest.skip("this host has no GICv3, which the program drives")


@pytest.mark.parametrize("name", ["gic_sgi", "gic_uart", "rtc", "timer"])
def test_program_when_it_takes_interrupts_passes(tmp_path: Path, name: str, gicv3: None) -> None:
    passes(guest(tmp_path, f"{name}.bin"), f"ok {name}")


@pytest.mark.parametrize(
    "name",
    [
        "entry",
        "exceptions",
        "flood",
        "fw_cfg",
        "hello",
        "psci",
        "rom_write",
        "smp",
        "sweep",
        "unmapped",
    ],
)
def test_program_when_run_passes(tmp_path: Path, name: str) -> None:
    one = guest(tmp_path, f"{name}.bin")

    ending = one.run()

    last = one.console.text.splitlines()[-1] if one.console.text else ""
    assert last.startswith(f"ok {name}"), (one.console.text, ending)
    assert (ending.code, ending.reason, ending.known) == (PASSED, "debug-exit", "told"), ending


def test_unified_kernel_image_when_run_starts_the_kernel_in_it(tmp_path: Path) -> None:
    path = tmp_path / "unified.efi"
    path.write_bytes(pe([(".text", b"stub"), (".linux", (BIN / "elf64.elf").read_bytes())], machine=0xAA64))

    passes(guest(tmp_path, "elf64.elf", firmware=None, kernel=str(path)), "ok elf64")


@pytest.mark.parametrize("name", ["exit", "io_loop"])
def test_program_in_assembly_when_run_passes(tmp_path: Path, name: str) -> None:
    assert guest(tmp_path, f"{name}.bin", *([] if name == "exit" else [200])).run().code == PASSED


def test_flood_when_it_ends_has_said_everything(tmp_path: Path) -> None:
    one = guest(tmp_path, "flood.bin", 3000)

    assert one.run().code == PASSED
    assert one.console.text == "".join(chr(97 + i % 26) for i in range(3000)) + "\nok flood\n"


def test_accesses_when_a_device_is_like_memory_have_their_widths(tmp_path: Path) -> None:
    one = guest(tmp_path, "mmio.bin")
    one.add(MMIO, 0x0B10_0000, 0x10000)

    passes(one, "ok mmio")


@pytest.mark.parametrize("cpus", [2, 4, 8])
def test_smp_when_there_are_cpus_starts_them_all(tmp_path: Path, cpus: int) -> None:
    passes(guest(tmp_path, "smp.bin", cpus, cpus=cpus), f"ok smp {cpus:#x}")


@pytest.mark.parametrize("cpus", [17, 130])
def test_smp_when_there_are_more_than_a_gicv2_has_starts_them_all(
    tmp_path: Path, cpus: int, gicv3: None
) -> None:
    passes(guest(tmp_path, "smp.bin", cpus, cpus=cpus), f"ok smp {cpus:#x}")


def test_elf_when_given_as_firmware_starts_at_its_entry(tmp_path: Path) -> None:
    passes(guest(tmp_path, "elf64.elf"), "ok elf64")


def test_elf_when_given_as_a_kernel_starts_at_its_entry(tmp_path: Path) -> None:
    passes(guest(tmp_path, "", firmware=None, kernel=str(BIN / "elf64.elf")), "ok elf64")


def test_flat_firmware_when_placed_in_ram_runs_there(tmp_path: Path) -> None:
    passes(guest(tmp_path, "flat.bin", firmware_base=0x4020_0000), "ok flat")


def test_poweroff_and_reset_when_asked_for_by_psci_are_told_apart(tmp_path: Path) -> None:
    endings = [guest(tmp_path, f"{name}.bin").run() for name in ("poweroff", "reset")]

    assert [(ending.code, ending.reason, ending.known) for ending in endings] == [
        (0, "poweroff", "told"),
        (0, "reboot", "told"),
    ]


def test_watchdog_when_not_fed_ends_the_machine_with_its_code(tmp_path: Path) -> None:
    ending = guest(tmp_path, "watchdog.bin").run()

    assert (ending.code, ending.reason, ending.known) == (4, "watchdog", "told")


def test_watchdog_when_the_machine_is_paused_does_not_bite_until_it_goes_on(tmp_path: Path) -> None:
    one = guest(tmp_path, "watchdog.bin")
    one.machine.pause()
    one.machine.start()
    one.machine.resume()
    one.console.wait_for(b"starving")
    one.machine.pause()
    if one.machine.ending is not None:
        pytest.skip("the emulated host took longer than the watchdog's 100 ms to pause the guest")
    time.sleep(1)  # ten times what the watchdog waits
    assert one.machine.ending is None

    one.machine.resume()

    ending = one.machine.wait()
    assert (ending.code, ending.reason, ending.known) == (4, "watchdog", "told")


def test_pair_of_loads_when_made_from_a_device_is_named(tmp_path: Path) -> None:
    ending = guest(tmp_path, "no_syndrome.bin").run()

    assert (ending.code, ending.reason) == (5, "unsupported"), ending
    assert "0x9000018" in ending.detail
    assert "single loads and stores" in ending.detail


@pytest.mark.parametrize("name", ["spin", "wfi"])
def test_guest_when_it_never_exits_is_stopped_in_time(tmp_path: Path, name: str) -> None:
    one = guest(tmp_path, f"{name}.bin")
    one.machine.start()
    time.sleep(0.5)  # it is to be inside the guest; nothing tells that it is

    begin = time.monotonic()
    one.machine.stop()
    ending = one.machine.wait()

    assert (ending.code, ending.reason) == (3, "stopped")
    assert time.monotonic() - begin < 2  # a hundred milliseconds on hardware


@pytest.mark.parametrize("cpus", [1, 2])
def test_guest_when_it_halts_as_linux_does_ends_by_that(tmp_path: Path, cpus: int) -> None:
    ending = guest(tmp_path, "halt.bin", cpus=cpus).run()

    assert (ending.code, ending.reason, ending.known) == (8, "halt", "inferred")


def test_echo_when_typed_to_answers_byte_for_byte(tmp_path: Path, gicv3: None) -> None:
    text = b"thirty bytes, a FIFO has more."
    console = Transcript([(b"echo\n", text + b"\x04")])

    one = guest(tmp_path, "echo.bin", console=console)

    passes(one, "ok echo")
    assert text in console.data


def test_pause_when_resumed_lets_the_guest_finish(tmp_path: Path) -> None:
    one = guest(tmp_path, "io_loop.bin", 2000)
    one.machine.start()
    one.machine.pause()
    timer = threading.Timer(0.1, one.machine.resume)
    timer.start()

    assert one.machine.wait().code == PASSED


def test_host_when_asked_says_which_interrupt_controllers_it_has() -> None:
    with Kvm() as kvm:
        assert host.gic_versions(kvm)


@pytest.mark.parametrize("version", [2, 3])
def test_gic_when_the_host_has_it_not_is_refused_in_one_sentence(tmp_path: Path, version: int) -> None:
    with Kvm() as kvm:
        if version in host.gic_versions(kvm):
            pytest.skip(f"this host has GICv{version}")

    with pytest.raises(PyvmmError, match=f"no GICv{version}") as caught:
        guest(tmp_path, "exit.bin", gic=str(version))
    assert caught.value.exit_code == 64
