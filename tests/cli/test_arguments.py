"""Wrong command lines and board files: one line, code 65 or 64, no traceback; and the help."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.cli.main import VERBS, main
from pyvmm.cli.messages import message
from tests.support.command import EXIT, MODULE, complains, pyvmm

pytestmark = pytest.mark.timeout(90)


def called(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Code, stdout and stderr of a command line, in this process: what a process adds is tested below."""
    code = main(list(arguments))
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parrot"], "'parrot' is not a verb"),
        (["--parrot"], "'--parrot' is not a verb"),
        (["run", "--parrot"], "--parrot is not an option"),
        (["run", "--parrot=5"], "--parrot is not an option"),
        (["run", "-k", "x"], "-k is not an option"),
        (["run", "--kernel"], "--kernel needs a value"),
        (["run", "--untrusted", "--firmware", EXIT], "--untrusted is about a board file"),
        (["run", "--memory=1M", "--memory", "2M"], "--memory is given twice"),
        (["run", "a.toml", "b.toml"], "'b.toml' is one word too many"),
        (["run", "--", "a.toml", "--memory"], "'--memory' is one word too many"),
        (["run", "--cpus", "two"], "cpus: 'two' is not a number"),
        (["run", "--cpus", "0", "--firmware", EXIT], "cpus: 0 must be"),
        (["run", "--cpus", "255", "--firmware", EXIT], "cpus: 255 must be"),
        (["run", "--cpus", "-1", "--firmware", EXIT], "cpus: -1 must be"),
        (["run", "--cpus", "9" * 5000, "--firmware", EXIT], "is not a number"),
        (["run", "--memory", "-256M", "--firmware", EXIT], "memory: '-256M'"),
        (["run", "--memory", "0", "--firmware", EXIT], "memory: '0'"),
        (["run", "--memory", "1", "--firmware", EXIT], "memory: '1'"),
        (["run", "--memory", "999999999T", "--firmware", EXIT], "memory: '999999999T'"),
        (["run", "--memory", "1e5M", "--firmware", EXIT], "memory: '1e5M'"),
        (["run", "--memory", "", "--firmware", EXIT], "memory: ''"),
        (["run", "--memory", "lots", "--firmware", EXIT], "memory: 'lots'"),
        (["run", "--timeout", "-5", "--firmware", EXIT], "timeout: '-5'"),
        (["run", "--timeout", "nan", "--firmware", EXIT], "timeout: 'nan'"),
        (["run", "--timeout", "soon", "--firmware", EXIT], "timeout: 'soon'"),
        (["run", "--debug-exit", "0x10000", "--firmware", EXIT], "debug_exit: 65536 must be a port"),
        (["run", "--debug-exit", "here", "--firmware", EXIT], "debug-exit: 'here' is not a number"),
        (["run", "--debug-exit", "0x3f8", "--firmware", EXIT], "COM1"),
        (["run", "--on-reboot", "panic", "--firmware", EXIT], "on_reboot: 'panic' is not offered"),
        (["run", "--boot", "grub", "--kernel", EXIT], "boot: 'grub' is not offered"),
        (["run", "--console", "parrot", "--firmware", EXIT], "'parrot' is none of"),
        (["run", "--console", "file:", "--firmware", EXIT], "'file:' names no path"),
        (["run", "--cpu", "parrot", "--firmware", EXIT], "'parrot' is not offered"),
        (["run", "--cpu", "host,-parrot", "--firmware", EXIT], "'-parrot' is not"),
        (["run", "--cpu", "host,-avx,+avx", "--firmware", EXIT], "both masked and required"),
        (["run", "--kernel", "", "--console", "none"], "kernel: '' must be"),
        (["run", "--name", "", "--firmware", EXIT], "name: '' must be"),
        (["run", "--kernel", "k", "--firmware", EXIT], "exclude each other"),
        (["run", "--initrd", "i", "--firmware", EXIT], "initrd and boot need a kernel"),
        (["run", "--modules", "/lib"], "modules needs the kernel image"),
        (["run", "--modules", "/lib", "--kernel", "host"], "modules needs the kernel image"),
        (["run", "--modules", "/lib", "--kernel", "/etc"], "the kernel /etc is a directory"),
        (["run", "--exec", "true", "--firmware", EXIT], "exec needs a Linux kernel"),
        (["run", "/nowhere/board.toml"], "/nowhere/board.toml: No such file"),
        (["run", "/"], "/: Is a directory"),
        (["doctor", "--parrot"], "--parrot"),
        (["doctor", "parrot"], "parrot"),
        (["doctor", "--json=5"], "--json"),
        (["image"], "VERB"),
        (["image", "parrot"], "'parrot'"),
        (["image", "fetch", "--arch", "z80"], "'z80'"),
        (["image", "initramfs"], "--output"),
        (["image", "initramfs", "-o"], "--output"),
        (["image", "list", "parrot"], "parrot"),
        (["lab"], "no command to run"),
        (["lab", "z80", "--", "true"], "'z80'"),
        (["lab", "--parrot", "--", "true"], "--parrot"),
        (["lab", "--cpus", "two", "--", "true"], "--cpus"),
        (["lab", "--cpus", "0", "--", "true"], "CPUs"),
        (["lab", "--memory", "lots", "--", "true"], "'lots'"),
        (["lab", "--memory"], "--memory"),
        (["lab", "--timeout", "soon", "--", "true"], "'soon'"),
    ],
)
def test_command_line_when_wrong_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = called(capfd, *arguments)

    assert code == 65
    assert out == ""
    assert err.startswith("pyvmm: ") and err.endswith("\n") and err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--firmware", "/nowhere/rom.bin"], "firmware /nowhere/rom.bin cannot be read: No such file"),
        (["--firmware", "/etc"], "firmware /etc is a directory"),
        (["--kernel", "/etc"], "kernel /etc is a directory and no kernel tree"),
        (["--kernel", "/nowhere/bzImage", "--modules", "/etc"], "kernel /nowhere/bzImage does not exist"),
        (["--kernel", EXIT, "--modules", "/etc"], "does not say which release of Linux it is"),
        (["--kernel", "/dev/zero"], "kernel /dev/zero is not a regular file"),
        (["--kernel", EXIT, "--console", "none"], EXIT),
        (["--firmware", EXIT, "--console", "file:/nowhere/console"], "/nowhere/console"),
        (["--firmware", EXIT, "--console", "file:/etc"], "/etc"),
        (["--firmware", EXIT, "--console", "socket:/nowhere/console"], "/nowhere/console"),
        (["--firmware", EXIT, "--result", "/nowhere/result.json"], "/nowhere/result.json cannot be written"),
        (["--firmware", EXIT, "--result", "/etc"], "/etc cannot be written"),
        (["--firmware", EXIT, "--result", ""], "cannot be written"),
    ],
)
@pytest.mark.kvm
def test_file_when_it_is_none_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = called(capfd, "run", "--memory", "1M", *arguments)

    assert code == 64, err
    assert out == ""
    assert err.startswith("pyvmm: ") and err.endswith("\n") and err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpus = ", "is not TOML"),
        ("cpu_count = 1", "'cpu_count' is not a key"),
        ("cpus = 'two'", "cpus: 'two' must be"),
        ("cpus = -2", "cpus: -2 must be"),
        ("memory = -2", "memory: -2"),
        ("memory = 1e400", "memory: inf"),
        ("memory = [{size = '1M', size = '2M'}]", "is not TOML"),
        ("memory = [{size = '1M', backing = 'tape'}]", "'tape' is not offered"),
        ("memory = [{size = '1M', backing = 'file', path = 'none'}]", "none cannot be mapped"),
        ("name = ['guest']", "name: ['guest'] must be"),
        ("debug_exit = true", "debug_exit: True must be"),
        ("[memory]\nsize = '1M'\ncolour = 'red'", "a part has size"),
    ],
)
@pytest.mark.kvm
def test_board_file_when_wrong_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, text: str, words: str
) -> None:
    board = tmp_path / "board.toml"
    board.write_text(text)

    code, out, err = called(capfd, "run", str(board), "--firmware", EXIT, "--console", "none")

    assert code in (64, 65)
    assert out == ""
    assert err.startswith("pyvmm: ") and err.endswith("\n") and err.count("\n") == 1
    assert words in err


@pytest.mark.kvm
def test_untrusted_board_file_runs_with_what_it_may_say_and_is_refused_with_more(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    board = tmp_path / "board.toml"
    board.write_text('memory = "16M"\n')
    words = ["run", str(board), "--untrusted", "--firmware", EXIT, "--console", "none"]
    assert called(capfd, *words) == (32, "", "")

    board.write_text('memory = "16M"\ndevice = "evil.py:Device"\n')
    code, out, err = called(capfd, *words)
    assert (code, out) == (65, "")
    assert err.startswith(f"pyvmm: {board}: 'device' is not for an untrusted board file")


def test_guest_by_default_when_something_else_is_wrong_is_not_fetched(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch() -> None:
        pytest.fail("the guest is fetched for nothing")

    monkeypatch.setattr("pyvmm.images.default.default_guest", fetch)

    assert called(capfd, "run", "--memory", "lots")[0] == 65


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in VERBS), ["image", "fetch"]])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_when_asked_for_goes_to_stdout(
    capfd: pytest.CaptureFixture[str], arguments: list[str], flag: str
) -> None:
    code, out, err = called(capfd, *arguments, flag)

    assert (code, err) == (0, "")
    assert out.startswith("usage: pyvmm")


def test_help_of_pyvmm_names_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = called(capfd, "--help")

    for verb in VERBS:
        assert f"  {verb} " in out


def test_version_when_asked_for_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    from pyvmm import __version__

    assert called(capfd, "--version") == (0, f"pyvmm {__version__}\n", "")


def test_complaint_with_control_characters_cannot_drive_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    message("panic: \x1b[2J\x07 and\r\n\tmore \N{SNOWMAN} \x9b")

    assert capfd.readouterr().err == "pyvmm: panic: \\x1b[2J\\x07 and more \N{SNOWMAN} \\x9b\n"


def test_defect_when_met_is_one_line_and_code_96(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYVMM_DEBUG", raising=False)
    monkeypatch.setattr("pyvmm.cli.run.Config", lambda **keys: 1 // 0)

    code, _, err = called(capfd, "run", "--firmware", EXIT)

    assert code == 96
    assert err.count("\n") == 1 and "PYVMM_DEBUG=1" in err


def test_module_without_arguments_shows_the_usage_and_fails() -> None:
    done = pyvmm()

    assert (done.returncode, done.stderr) == (65, b"")
    assert done.stdout.startswith(b"usage: pyvmm VERB")


def test_process_with_a_wrong_option_says_one_line_and_nothing_else() -> None:
    done = pyvmm("run", "--parrot", way=MODULE)

    complains(done, 65, "--parrot")
    assert done.stdout == b""


def test_process_with_bytes_that_are_no_text_says_one_line() -> None:
    complains(pyvmm("run", "--firmware", b"/nowhere/\xff"), 64, "/nowhere/")  # type: ignore[arg-type]
    complains(pyvmm("run", "--parrot\udcff"), 65)
