"""Processor features, device trees of one's own, and what KVM's registers are called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.arch.arm64 import cpu, registers
from pyvmm.boot.devicetree import Tree, pack, unpack
from pyvmm.config import Config
from pyvmm.images.default import default_guest
from pyvmm.machine.machine import Machine
from pyvmm.pykvm import Kvm
from tests.support.firmware_guest import BIN, PASSED, Transcript, guest

LIMIT = 120
pytestmark = [pytest.mark.arm64, pytest.mark.timeout(LIMIT + 30)]

PROMPT = b"~ # "


def boot(*answers: tuple[bytes, bytes], **keys: object) -> str:
    """What the stock kernel and its user say until the poweroff."""
    stock = default_guest("arm64")
    console = Transcript(answers)
    cmdline = "console=ttyAMA0 quiet panic=-1"
    config = Config(
        kernel=stock.kernel, initrd=stock.initrd, cmdline=cmdline, console="none", timeout=LIMIT, **keys
    )
    with Machine(config, console=console) as machine:
        ending = machine.run()
    assert (ending.code, ending.reason) == (0, "poweroff"), (ending, console.text)
    return console.text


def test_features_when_asked_for_are_seen_by_the_guest() -> None:
    text = boot(
        (PROMPT, b"grep Feat /proc/cpuinfo\r"), (b"fp asimd", b"ls /proc/d*e; exit\r"), cpu="host,+sve,+pmu"
    )

    assert re.search(r"Features.* sve ", text)
    assert "pmu" in text.partition("ls /proc/d*e")[2]


def test_features_when_masked_are_not_seen_by_the_guest() -> None:
    text = boot((PROMPT, b"grep Feat /proc/cpuinfo;exit\r"), cpu="host,-pauth")

    features = text.partition("Features")[2]
    assert "asimd" in features
    assert not {"sve", "paca", "pacg"} & set(features.split())


def own_tree() -> Tree:
    """The tree of a machine, taken out of its memory."""
    found: list[Tree] = []
    stock = default_guest("arm64")
    with Machine(Config(kernel=stock.kernel, console="none", timeout=LIMIT)) as machine:
        vcpu = machine.vcpus[0].vcpu
        at = vcpu.get_one_reg(registers.REGISTERS["X0"])
        size = int.from_bytes(machine.memory.read(at + 4, 4), "big")
        found.append(unpack(machine.memory.read(at, size)))
    return found[0]


def test_tree_when_it_is_the_users_own_is_what_the_guest_sees(tmp_path: Path) -> None:
    tree = own_tree()
    tree.root.set("model", "a board of one's own")
    path = tmp_path / "board.dtb"
    path.write_bytes(pack(tree))

    text = boot((PROMPT, b"cat /proc/d*e/model; exit\r"), dtb=str(path), memory="512M")

    assert "a board of one's own" in text
    assert re.search(r"aarch64, 1 CPUs, 4\d\d MiB", text)


def test_overlay_when_given_is_in_the_guests_tree(tmp_path: Path) -> None:
    overlay = Tree()
    fragment = overlay.root.add("fragment@0")
    fragment.set("target", 0xFFFF_FFFF)
    fragment.add("__overlay__").set("mark", "from the overlay")
    overlay.root.add("__fixups__").set("watchdog", "/fragment@0:target:0")
    path = tmp_path / "mark.dtbo"
    path.write_bytes(pack(overlay))

    text = boot((PROMPT, b"cat /proc/d*e/w*/mark; exit\r"), dtb_overlay=[str(path)])

    assert "from the overlay" in text


def test_registers_when_listed_have_a_name_each_and_keep_what_is_written() -> None:
    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        cpu.initialize(vm, vcpu, 0, frozenset())
        names = {number: registers.name_of(number) for number in vcpu.get_reg_list()}
        vcpu.set_one_reg(registers.REGISTERS["X7"], 0x1234)

        assert vcpu.get_one_reg(registers.REGISTERS["X7"]) == 0x1234

    assert len(names) > 200
    assert len(set(names.values())) == len(names)
    assert [name for name in names.values() if name.startswith("KVM_REG_")] == []
    # What this KVM has and no name is known for, by Arm's generic names: few.
    assert len([name for name in names.values() if name.startswith("S3_")]) < len(names) / 4, names


def test_board_file_when_it_moves_the_uart_is_followed(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text('ram_base = "0x40000000"\nuart = "pl011,base=0x1c090000,irq=12"\nconsole = "none"\n')
    config = Config.from_toml(str(board), firmware=str(guest_program()), timeout=LIMIT)

    with Machine(config, console=(console := Transcript())) as machine:
        ending = machine.run()

    assert ending.code == PASSED
    assert console.text == ""  # the program speaks where the UART was


def guest_program() -> Path:
    return BIN / "hello.bin"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"uart": "pl011,base=0x8000000"}, "UART 0.*overlaps.*GIC distributor"),
        ({"uart": "pl011,irq=2"}, "irq 2.*RTC|RTC.*irq 2"),
        ({"ram_base": "0x8000000"}, "overlaps"),
        ({"boot": "bzimage", "kernel": "/dev/null", "firmware": None}, "x86"),
    ],
)
def test_machine_when_two_things_are_in_one_place_names_both(
    tmp_path: Path, keys: dict[str, object], sentence: str
) -> None:
    from pyvmm.errors import ConfigError

    with pytest.raises(ConfigError, match=sentence):
        guest(tmp_path, "exit.bin", **keys)


def test_command_when_there_is_no_kvm_says_so_in_one_line(tmp_path: Path) -> None:
    script = f"mount -t tmpfs none /dev && exec {sys.executable} -m pyvmm run --firmware {guest_program()}"
    command = ["unshare", "-m", "sh", "-c", script]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)

    assert (done.returncode, done.stderr.count("\n")) == (64, 1), done.stderr
    assert "EL2" in done.stderr
