"""Commands and files as another user of the guest."""

from __future__ import annotations

import errno
import os
import pwd

import pytest

from pyvmm.exec.request import EXIT_CANNOT, Request, failure
from pyvmm.exec.tree import archive_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def root(tmp_path):
    """A root directory with users of its own: "ann" (4001, groups 4001, 4100 and 4200) and "bob" (4002)."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n# no user\nann:x:4001:4001::/home/ann:\nbob:x:4002:4002:::\nodd:x:y:z"
    )
    (tmp_path / "etc/group").write_text(
        "root:x:0:\nann:x:4001:\nteam:x:4100:bob2,ann\nother:x:4150:annabel,xann\nlast:x:4200:ann,bob\nbad:x:n:ann"
    )
    tmp_path.chmod(0o755)
    return tmp_path


def put(link, root, user, target):
    status, _, error = link.run(Request.unpack(target, root=root, user=user), archive_of(b"x"))
    return failure(status, error)


@pytest.mark.parametrize("user", ["nobody", NOBODY.pw_uid, str(NOBODY.pw_uid)])
def test_command_runs_as_the_user_given_by_name_or_number(link, user):
    status, output, _ = link.run(
        Request(["/bin/sh", "-c", 'id -u; id -g; echo "$HOME $USER $LOGNAME"'], user=user)
    )
    assert status == 0
    assert output.decode().split("\n") == [
        str(NOBODY.pw_uid),
        str(NOBODY.pw_gid),
        f"{NOBODY.pw_dir} nobody nobody",
        "",
    ]


def test_number_without_an_entry_is_taken_with_its_own_group(link):
    shown = link.run(Request(["/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME"], user=54321))[1]
    assert shown == b"54321\n54321\n54321\n/\n"


def test_variables_of_the_request_win_over_the_users(link):
    request = Request(["/bin/sh", "-c", 'echo "$HOME $USER"'], user="nobody", env={"HOME": "/mine", "A": "b"})
    assert link.run(request)[1] == b"/mine nobody\n"


def test_command_of_a_user_cannot_become_root_again_and_has_no_group_of_roots(link):
    text = "awk '/^(Uid|Gid|Groups)/' /proc/self/status"
    shown = link.run(Request(["/bin/sh", "-c", text], user="nobody"))[1].decode().split("\n")
    assert [line.split() for line in shown[:3]] == [
        ["Uid:", *[str(NOBODY.pw_uid)] * 4],
        ["Gid:", *[str(NOBODY.pw_gid)] * 4],
        ["Groups:", str(NOBODY.pw_gid)],
    ]


def test_user_can_open_its_own_streams_again(link):
    request = Request(["/bin/sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr"], user="nobody")
    assert link.run(request) == (0, b"out\n", b"err\n")


def test_user_has_its_own_terminal(link):
    request = Request(
        ["/bin/sh", "-c", "echo direct >/dev/tty; echo again >$(tty)"], user="nobody", pty=(24, 80)
    )
    assert link.run(request)[:2] == (0, b"direct\r\nagain\r\n")


def test_directory_is_entered_as_the_user(link, root):
    (root / "closed").mkdir(mode=0o700)
    status, _, error = link.run(Request(["program"], root=str(root), user="ann", cwd="/closed"))
    assert (status, error) == (
        EXIT_CANNOT,
        b"pyvmm-init: cannot enter /closed: permission denied (error 13)\n",
    )


def test_user_that_there_is_not_is_said(link):
    status, _, error = link.run(Request(["true"], user="nemo"))
    assert (status, error) == (EXIT_CANNOT, b"pyvmm-init: the guest's /etc/passwd has no user nemo\n")


def test_users_are_those_of_the_commands_root(link, root):
    (root / "drop").mkdir()
    (root / "drop").chmod(0o777)
    assert put(link, root, "ann", "/drop/anns") is None
    assert put(link, root, 4002, "/drop/bobs") is None
    made = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in (root / "drop").iterdir()}
    assert made == {"anns": (4001, 4001), "bobs": (4002, 4002)}
    assert link.run(Request.pack("/", root=root, user="nobody"))[0] == EXIT_CANNOT


@pytest.mark.parametrize(
    ("user", "group", "allowed"),
    [
        ("ann", 4001, True),
        ("ann", 4100, True),
        ("ann", 4200, True),
        ("ann", 4150, False),
        ("ann", 0, False),
        ("bob", 4200, True),
        ("bob", 4100, False),
    ],
)
def test_user_has_the_groups_that_list_it(link, root, user, group, allowed):
    (root / "shared").mkdir()
    os.chown(root / "shared", 0, group)
    (root / "shared").chmod(0o770)
    error = put(link, root, user, "/shared/file")
    assert (error is None) == allowed
    if error is not None:
        assert error.errno == errno.EACCES
