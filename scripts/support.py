"""Writes the table of docs/reference/support.md from the results of the guest tests: ``support.py LOG...``.

A LOG is the output of scripts/test. Its headings name the host that the lines after them come from, and
pytest's summary (``-rap``) says which tests passed. A feature is tested on an architecture when a test of it
passed there on one host and none failed on any.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "support.md"
BEGIN, END = "<!-- The table is written by scripts/support.py. -->\n", "<!-- end -->\n"

ARCHITECTURES = ("x86-64", "arm64")
#: The architecture of each host, as the command lines of scripts/test name it.
HOSTS = {
    "here": "x86-64",
    "x86_64": "x86-64",
    "arm64": "arm64",
    "arm64-n1": "arm64",
    "arm64-gicv2": "arm64",
}

GUEST = "tests/integration/"
LINUX = f"{GUEST}test_linux.py::test_"
ARM = f"{GUEST}arm64/"
ARM_LINUX = f"{ARM}test_linux.py::test_"
NET = f"{GUEST}test_virtio_net.py::"
CONSOLE = f"{GUEST}test_virtio_console.py::test_"
VHOST = f"{GUEST}test_virtio_vhost.py::test_"
TOOLS = f"{GUEST}test_virtio_tools.py::test_"
#: A feature and its tests: files, or beginnings of tests' names. All that have run must have passed.
FEATURES: dict[str, tuple[str, ...]] = {
    "Debian's stock kernel to a shell and a poweroff": (
        f"{LINUX}bzimage_with_its_own_decompressor_boots_to_a_shell_and_powers_off",
        f"{ARM_LINUX}stock_kernel_boots_to_a_shell_and_powers_off",
    ),
    "two CPUs, reboot": (
        f"{LINUX}bzimage_unpacked_on_the_host_boots_two_cpus_and_reboots",
        f"{ARM_LINUX}stock_kernel_with_two_cpus_boots_and_reboots",
    ),
    "a panic told from a reboot": (
        f"{LINUX}kernel_without_init_panics_and_that_is_inferred_from_its_log_without_any_console",
        f"{ARM_LINUX}panic_when_it_happens_is_told_from_a_reboot",
    ),
    "power button": (
        f"{LINUX}power_button_makes_the_guest_power_off_by_itself",
        f"{ARM_LINUX}power_button_when_pressed_shuts_the_guest_down",
    ),
    "`--exec`: streams and exit status": (
        f"{LINUX}exec_passes_status_streams_and_binary_input_through",
        f"{ARM_LINUX}exec_when_its_command_ends_has_its_output_and_status",
    ),
    "`--exec` through the second serial port": (
        f"{CONSOLE}exec_when_the_kernel_finds_no_virtio_devices_goes_through_the_serial_port",
    ),
    "firmware: flat": (
        f"{GUEST}test_processor.py::test_mode_program_when_run_passes",
        f"{ARM}test_firmware.py::test_flat_firmware_when_placed_in_ram_runs_there",
    ),
    "firmware: ELF": (
        f"{GUEST}test_images.py::test_elf_firmware_when_run_finds_its_entry_state",
        f"{ARM}test_firmware.py::test_elf_when_given_as_firmware_starts_at_its_entry",
    ),
    "kernels by multiboot": (f"{GUEST}test_images.py::test_multiboot_kernel_when_run_finds_memory",),
    "U-Boot": (f"{ARM}test_uboot.py",),
    "many CPUs, by firmware": (
        f"{GUEST}test_processor.py::test_smp_program_when_given_254_processors_starts_them_all",
        f"{ARM}test_firmware.py::test_smp_when_there_are_more_than_a_gicv2_has_starts_them_all",
    ),
    "a device tree of one's own, overlays": (
        f"{ARM}test_features.py::test_tree_when_it_is_the_users_own_is_what_the_guest_sees",
        f"{ARM}test_features.py::test_overlay_when_given_is_in_the_guests_tree",
    ),
    "processor features masked or asked for": (
        f"{ARM}test_features.py::test_features_when_masked_are_not_seen_by_the_guest",
        f"{GUEST}test_processor.py::test_cpuid_when_four_processors_tells_four",
    ),
    "minimal kernel of `pyvmm image kernel`": (
        f"{GUEST}test_minimal_kernel.py",
        f"{ARM}test_minimal_kernel.py",
    ),
    "virtio: all devices in one guest, poweroff, reboot": (f"{ARM}test_virtio.py",),
    "virtio block": (f"{GUEST}test_virtio_block.py",),
    "virtio block: nothing lost when the VMM is killed": (f"{GUEST}test_virtio_block_kill.py",),
    "virtio net: tap": (f"{NET}TestTap::",),
    "virtio net: without privileges (passt)": (f"{NET}TestUser::",),
    "virtio net: switch of a process": (f"{NET}TestSwitch::",),
    "virtio net: link between processes": (f"{NET}TestLink::",),
    "virtio console: hvc0, sizes, data ports": (
        f"{CONSOLE}kernel_log_and_shell_are_on_hvc0",
        f"{CONSOLE}size_of_the_terminal_reaches_the_guest_and_follows_it",
        f"{CONSOLE}data_port_carries_megabytes_to_the_host",
        f"{CONSOLE}driver_bound_again_and_again_also_under_load_still_works",
    ),
    "virtio entropy": (
        f"{GUEST}test_virtio_firmware.py::test_rng_when_driven_at_full_speed",
        f"{ARM}test_virtio.py::test_devices_when_there_is_one_of_each_are_found_and_driven",
    ),
    "virtio vsock": (f"{GUEST}test_virtio_vsock.py",),
    "virtio balloon": (f"{GUEST}test_virtio_balloon.py",),
    "shared directories (virtiofs)": (f"{VHOST}file_of_the_hosts_is_read_and_one_of_the_guests_is_there",),
    "vhost-user": (f"{VHOST}entropy_device_of_another_process_feeds_the_driver",),
    "vhost-net": (f"{VHOST}frames_of_vhost_net_keep_their_checksum_both_ways",),
    "vhost-vsock": (f"{VHOST}vsock_of_the_hosts_kernel_carries_a_mebibyte_and_back",),
    "devices of one's own: trace, faults, recording": (
        f"{TOOLS}new_device_is_read_by_the_kernels_own_driver",
        f"{TOOLS}trace_follows_the_driver_from_probe_to_interrupt",
        f"{TOOLS}faults_reach_the_driver_as_the_trace_shows",
        f"{TOOLS}recording_has_what_the_device_did_and_replays_without_a_difference",
    ),
    "examples: I2C adapter, GPIO expander": (f"{GUEST}test_virtio_examples.py::TestBuses::",),
    "examples: accelerometer": (f"{GUEST}test_virtio_examples.py::TestStockKernel::",),
}


def results(lines: list[str]) -> dict[str, dict[str, str]]:
    """By architecture, ``PASSED`` or ``FAILED`` for each test that ran; a failure on one host counts."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    host = "here"
    for line in lines:
        if line.startswith("== "):
            lab = re.search(r" pyvmm lab (\S+) ", line)
            host = lab[1] if lab else "here"
        elif said := re.match(r"(PASSED|FAILED|ERROR) (tests/\S+)", line):
            tests = found[HOSTS[host]]
            tests[said[2]] = "PASSED" if said[1] == "PASSED" and tests.get(said[2]) != "FAILED" else "FAILED"
    return found


def cell(tests: tuple[str, ...], found: dict[str, str]) -> str:
    """The table's entry for one feature on one architecture."""
    outcomes = {outcome for name, outcome in found.items() if name.startswith(tests)}
    return {frozenset(): "-", frozenset({"PASSED"}): "tested"}.get(frozenset(outcomes), "fails")


def table(found: dict[str, dict[str, str]]) -> str:
    lines = [f"| feature | {' | '.join(ARCHITECTURES)} | tests |", "| --- | --- | --- | --- |"]
    for feature, tests in FEATURES.items():
        cells = [cell(tests, found[architecture]) for architecture in ARCHITECTURES]
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        names = ", ".join(f"`{name}`" for name in files)
        lines.append(f"| {feature} | {' | '.join(cells)} | {names} |")
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    lines = [line for name in sys.argv[1:] for line in Path(name).read_text(errors="replace").splitlines()]
    found = results(lines)
    missing = [architecture for architecture in ARCHITECTURES if architecture not in found]
    if missing:
        print(
            f"support: no result for {' and '.join(missing)}; give the logs of scripts/test", file=sys.stderr
        )
        return 64
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
