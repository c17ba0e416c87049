"""Trees of files: packed and unpacked here, by the guest's own code, and from guests that are hostile."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cpio import SIZE_MAX, TRAILER, CpioError, Header, Reader, padding
from pyvmm.exec import tree as tree_module
from pyvmm.exec.request import Request, failure
from pyvmm.exec.tree import DEPTH_MAX, LEFT_OUT_MAX, Packer, Unpacker, archive_of

SOURCE_TIME = 1_600_000_000


def make_tree(top):
    """A tree with what trees have."""
    (top / "empty directory").mkdir(parents=True)
    (top / "deep/er/est").mkdir(parents=True)
    (top / "deep/er/est/file").write_bytes(b"deep")
    (top / "empty").write_bytes(b"")
    (top / ".hidden").write_bytes(b"dot")
    (top / "large").write_bytes(os.urandom(3_000_001))
    (top / "buffer").write_bytes(os.urandom(65536))
    (top / "na\udcffme und\nso").write_bytes(b"odd")
    (top / "script").write_bytes(b"#!/bin/sh\n")
    (top / "script").chmod(0o755)
    (top / "secret").write_bytes(b"s")
    (top / "secret").chmod(0o400)
    (top / "deep/link").symlink_to("er/est/file")
    (top / "dangling").symlink_to("nothing/here")
    (top / "up").mkdir()
    (top / "up/link").symlink_to("../deep")
    (top / "locked").mkdir()
    (top / "locked/in").write_bytes(b"in")
    (top / "locked").chmod(0o555)
    for number, path in enumerate(sorted(every(top), reverse=True)):
        os.utime(path, (SOURCE_TIME + number,) * 2, follow_symlinks=False)
    return top


def every(top):
    return [str(top), *(os.path.join(at, name) for at, *names in os.walk(top) for name in chain(*names))]


def described(top):
    """Kind, mode, time and content of everything by name."""
    found = {}
    for path in every(top):
        status = os.lstat(path)
        content = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        found[os.path.relpath(path, top)] = (oct(status.st_mode), int(status.st_mtime), content)
    return found


@pytest.fixture
def tree(tmp_path):
    yield make_tree(tmp_path / "tree")
    for top in tmp_path.iterdir():
        if (top / "locked").is_dir():
            (top / "locked").chmod(0o755)


def packed(source, piece=65536):
    packer = Packer(source)
    data = b""
    while got := packer.read(piece):
        data += got
    return data


def unpack(data, destination, piece=65536, **keys):
    unpacker = Unpacker(destination, **keys)
    try:
        for at in range(0, len(data), piece):
            unpacker.feed(data[at : at + piece])
        unpacker.finish()
    finally:
        unpacker.close()
    return unpacker


def put(link, data, target, **keys):
    status, out, err = link.run(Request.unpack(str(target), **keys), data)
    assert out == b""
    return failure(status, err)


def get(link, path, **keys):
    status, out, err = link.run(Request.pack(str(path), **keys))
    return failure(status, err), out


# Between host and host


@pytest.mark.parametrize("piece", [1 << 20, 4099])
def test_tree_when_packed_and_unpacked_is_the_same(tree, tmp_path, piece):
    unpacker = unpack(packed(tree, piece), tmp_path / "new/copy", piece)
    assert described(tmp_path / "new/copy") == described(tree)
    assert unpacker.left_out == []
    (tmp_path / "new/copy/locked").chmod(0o755)


def test_file_when_packed_and_unpacked_is_the_same(tmp_path):
    (tmp_path / "one").write_bytes(b"content")
    (tmp_path / "one").chmod(0o640)
    unpack(packed(tmp_path / "one"), tmp_path / "there/two")
    assert (tmp_path / "there/two").read_bytes() == b"content"
    assert (tmp_path / "there/two").stat().st_mode & 0o7777 == 0o640


def test_packer_when_given_a_link_follows_it_and_no_other(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/inside").symlink_to("x")
    (tmp_path / "link").symlink_to("real")
    unpack(packed(tmp_path / "link"), tmp_path / "copy")
    assert os.readlink(tmp_path / "copy/inside") == "x"


def test_packer_leaves_out_what_is_no_file(tmp_path):
    (tmp_path / "tree").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "tree/socket"))
        packer = Packer(tmp_path / "tree")
        assert b"socket" not in packer.read(1 << 20)
    assert packer.left_out == [str(tmp_path / "tree/socket")]


def test_packer_when_there_is_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Packer(tmp_path / "none").read()


def test_packer_reads_files_that_do_not_tell_their_size():
    assert Reader().feed(packed("/proc/self/status"))[1].startswith(b"Name:")


def test_file_of_four_gib_is_refused_in_a_sentence(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(SIZE_MAX + 1)
    with pytest.raises(CpioError, match="less than 4 GiB"):
        packed(tmp_path / "huge")


def test_file_that_becomes_shorter_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    packer = Packer(tmp_path / "file")
    packer.read(1000)
    os.truncate(tmp_path / "file", 500_000)
    with pytest.raises(CpioError, match="500000 bytes shorter"):
        packer.read(2_000_000)


def test_directory_that_exists_is_added_to_and_keeps_its_mode(tmp_path):
    (tmp_path / "old/sub").mkdir(parents=True)
    (tmp_path / "old").chmod(0o711)
    (tmp_path / "old/mine").write_bytes(b"mine")
    (tmp_path / "old/theirs").write_bytes(b"a longer text")
    (tmp_path / "new/sub").mkdir(parents=True)
    (tmp_path / "new/theirs").write_bytes(b"new")
    (tmp_path / "new/sub/file").write_bytes(b"below")
    unpack(packed(tmp_path / "new"), tmp_path / "old")
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "old/mine").read_bytes() == b"mine"
    assert (tmp_path / "old/theirs").read_bytes() == b"new"
    assert (tmp_path / "old/sub/file").read_bytes() == b"below"


# Between host and the guest's code


def test_tree_when_put_and_got_again_is_the_same(link, tree, tmp_path):
    assert put(link, packed(tree), tmp_path / "guest/at") is None
    assert described(tmp_path / "guest/at") == described(tree)
    error, data = get(link, tmp_path / "guest/at")
    assert error is None
    unpack(data, tmp_path / "back")
    assert described(tmp_path / "back") == described(tree)
    (tmp_path / "guest/at/locked").chmod(0o755)


def test_trees_when_several_move_at_once_do_not_mix(link, tree, tmp_path):
    data = packed(tree)
    puts = [link.start(Request.unpack(f"{tmp_path}/at{n}"), data) for n in range(4)]
    gets = [link.start(Request.pack(str(tree))) for _ in range(4)]
    link.until(lambda: all(command.run.ended for command in puts + gets))
    for n, command in enumerate(puts):
        assert command.result == (0, b"", b"")
        assert described(tmp_path / f"at{n}") == described(tree)
    for n, command in enumerate(gets):
        assert command.run.status == 0
        unpack(command.stdout, tmp_path / f"back{n}")
        assert described(tmp_path / f"back{n}") == described(tree)


def test_root_of_a_guest_can_be_packed_from_inside(link, tmp_path):
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/file").write_bytes(b"f")
    _, data = get(link, "/", root=tmp_path / "root")
    assert [item.name for item in Reader().feed(data) if isinstance(item, Header)] == [".", "etc", "etc/file"]


def test_bytes_when_put_become_a_file(link, tmp_path):
    assert put(link, archive_of(b"text", 0o600), tmp_path / "a/b/file") is None
    assert (tmp_path / "a/b/file").read_bytes() == b"text"
    assert (tmp_path / "a/b/file").stat().st_mode & 0o7777 == 0o600


def test_file_when_it_is_there_is_written_through_a_link_and_below_a_tree_replaced(link, tmp_path):
    (tmp_path / "real").write_bytes(b"a longer text")
    (tmp_path / "link").symlink_to("real")
    assert put(link, archive_of(b"new"), tmp_path / "link") is None
    assert (tmp_path / "real").read_bytes() == b"new"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").write_bytes(b"newest")
    assert put(link, packed(tmp_path / "tree"), tmp_path) is None
    assert (tmp_path / "real").read_bytes() == b"new"
    assert not (tmp_path / "link").is_symlink()


def test_program_that_runs_can_be_replaced(link, tmp_path):
    assert put(link, packed("/bin/sh"), tmp_path / "program") is None
    running = link.start(Request([str(tmp_path / "program"), "-c", "echo on; read line; :"]))
    link.until(lambda: running.stdout == b"on\n")
    assert put(link, archive_of(b"#!/bin/sh\necho new\n", 0o755), tmp_path / "program") is None
    assert link.run(Request([str(tmp_path / "program")]))[1] == b"new\n"
    running.run.signal(9)
    assert link.finish(running)[0] == 137


def test_proc_files_can_be_got(link):
    error, data = get(link, "/proc/version")
    assert error is None
    _, content = Reader().feed(data)
    with open("/proc/version", "rb") as version:
        assert content == version.read()


@pytest.mark.parametrize(
    ("path", "number"),
    [("/no/such/file", errno.ENOENT), ("/etc/passwd/x", errno.ENOTDIR), ("/dev/null", errno.EINVAL)],
)
def test_path_that_cannot_be_got_gives_the_guests_error(link, path, number):
    error, data = get(link, path)
    assert (error.errno, path in str(error)) == (number, True)
    assert [item.name for item in Reader().feed(data)] == []
    assert isinstance(error, FileNotFoundError) == (number == errno.ENOENT)


@pytest.mark.parametrize(
    ("target", "number"),
    [("/proc/nothing/file", errno.ENOENT), ("/etc", errno.EISDIR), ("/etc/passwd/x", errno.ENOTDIR)],
)
def test_target_that_cannot_be_written_gives_the_guests_error(link, target, number):
    error = put(link, archive_of(b"x"), target)
    assert (error.errno, target in str(error)) == (number, True)


def test_full_file_system_gives_enospc(link):
    error = put(link, archive_of(bytes(100_000)), "/dev/full")
    assert error.errno == errno.ENOSPC


def test_large_file_of_the_guest_arrives_whole_while_another_command_runs(link, tmp_path):
    data = os.urandom(8_000_000)
    (tmp_path / "file").write_bytes(data)
    got = link.start(Request.pack(str(tmp_path / "file")))
    assert link.run(Request(["echo", "beside"]))[1] == b"beside\n"
    assert link.finish(got)[0] == 0
    assert b"".join(item for item in Reader().feed(got.stdout) if isinstance(item, bytes)) == data


def test_file_of_four_gib_in_the_guest_is_refused_in_a_sentence(link, tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(SIZE_MAX + 1)
    error, _ = get(link, tmp_path / "huge")
    assert (error.errno, "less than 4 GiB" in str(error)) == (errno.EFBIG, True)


def archive(*entries):
    """An archive of (name, mode, content) as it is, wise or not."""
    data = b""
    for number, (name, mode, content) in enumerate(entries):
        data += Header(name, mode, len(content), SOURCE_TIME).pack(number) + content + padding(len(content))
    return data + Header(TRAILER, 0).pack(0)


TOP = (".", stat.S_IFDIR | 0o755, b"")


def file(name, content=b"x", mode=0o644):
    return (name, stat.S_IFREG | mode, content)


def folder(name, mode=0o755):
    return (name, stat.S_IFDIR | mode, b"")


def symlink(name, target):
    return (name, stat.S_IFLNK | 0o777, target)


MALFORMED = [
    b"",
    b"070701",
    b"070702" + archive(TOP)[6:],
    archive(TOP)[:-40],
    archive(TOP)[:60],
    archive(TOP, file("f", b"content"))[:-150],
    archive(TOP).replace(b"0000", b"000x", 1),
    archive(TOP, file("../f")),
    archive(TOP, file("/f")),
    archive(TOP, file("a/../../f")),
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_archive_that_is_malformed_is_refused_by_the_guest(link, tmp_path, data):
    (tmp_path / "in").mkdir()
    error = put(link, data, tmp_path / "in/side")
    assert (error.errno, "archive" in str(error)) == (errno.EINVAL, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert {path.name for path in (tmp_path / "in").iterdir()} <= {"side"}


# Archives of a hostile guest


@pytest.mark.parametrize(
    "entries",
    [
        [file("f")],
        [symlink(".", b"/etc")],
        [TOP, TOP],
        [TOP, file("../f")],
        [TOP, file("..")],
        [TOP, file("/f")],
        [TOP, file("a//f")],
        [TOP, file("./f")],
        [TOP, folder("a"), file("a/../f")],
        [TOP, file("no/parent")],
        [TOP, symlink("l", b"."), file("l/f")],
        [TOP, symlink("l", b"sub"), folder("sub"), file("l/f")],
        [TOP, symlink("l", b"sub"), folder("l")],
        [TOP, folder("l"), folder("l/s"), symlink("l/s", b"x")],
        [TOP, ("dev", stat.S_IFBLK | 0o666, b"")],
        [TOP, ("dev", stat.S_IFCHR | 0o666, b"")],
        [TOP, ("fifo", stat.S_IFIFO | 0o666, b"")],
        [TOP, ("odd", 0o644, b"")],
        [TOP, ("d", stat.S_IFDIR | 0o755, b"content")],
        [TOP, symlink("l", b"")],
        [TOP, symlink("l", b"x" * 4096)],
        [TOP, file("x" * 256)],
        [TOP, folder("/".join("d" * (DEPTH_MAX + 1)))],
        [file("."), file("below")],
    ],
    ids=lambda entries: entries[-1][0][:20],
)
def test_archive_that_is_hostile_is_refused(tmp_path, entries):
    destination = tmp_path / "outer/destination"
    destination.parent.mkdir()
    with pytest.raises((CpioError, OSError)) as raised:
        unpack(archive(*entries), destination)
    assert isinstance(raised.value, (CpioError, IsADirectoryError))
    assert list(tmp_path.iterdir()) == [tmp_path / "outer"]
    assert set(destination.parent.iterdir()) <= {destination}


def test_links_of_the_destination_are_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    destination = tmp_path / "destination"
    destination.mkdir()
    (destination / "directory").symlink_to(outside)
    (destination / "file").symlink_to(outside / "file")
    unpack(archive(TOP, file("file", b"new")), destination)
    with pytest.raises(CpioError, match="'directory' to be a directory"):
        unpack(archive(TOP, file("directory/file", b"new")), destination)
    with pytest.raises(CpioError, match="'directory' to be a directory"):
        unpack(archive(TOP, folder("directory")), destination)
    assert (outside / "file").read_bytes() == b"precious"
    assert (destination / "file").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "target", "made"),
    [
        ("l", b"file", True),
        ("l", b"./a/b", True),
        ("a/b/l", b"../../file", True),
        ("a/b/l", b"../..", True),
        ("l", b"/etc/passwd", False),
        ("l", b"..", False),
        ("l", b"../outside", False),
        ("a/b/l", b"../../../outside", False),
        ("a/l", b"b/../../file", False),
        ("a/l", b".././../outside", False),
        ("a/l", b"..//..", False),
    ],
)
def test_symbolic_link_of_a_guest_is_made_only_when_it_leads_nowhere_else(tmp_path, name, target, made):
    top = tmp_path / "top"
    unpacker = unpack(archive(TOP, folder("a"), folder("a/b"), symlink(name, target)), top)
    assert unpacker.left_out == ([] if made else [name])
    assert os.path.lexists(top / name) == made
    if made:
        assert os.readlink(os.fsencode(top / name)) == target


def test_chain_of_links_of_a_guest_leads_nowhere_else(tmp_path):
    # By its text alone the second one stays inside: a/a/a/../.. would be a.
    top = tmp_path / "top"
    unpacker = unpack(archive(TOP, symlink("a", b"."), symlink("b", b"a/a/a/../..")), top)
    assert unpacker.left_out == ["b"]


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_modes_of_a_guest_are_applied_less_the_umask(tmp_path, mask, mode):
    entries = [(".", stat.S_IFDIR | 0o777, b""), file("f", mode=0o777), folder("d", 0o777)]
    with umask(mask):
        unpack(archive(*entries), tmp_path / "top")
        unpack(archive_of(b"x", 0o777), tmp_path / "file")
    for name in ("top", "top/f", "top/d", "file"):
        assert (tmp_path / name).stat().st_mode & 0o7777 == mode, name


def test_file_that_exists_is_overwritten_and_keeps_its_mode(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"longer than before")
    path.chmod(0o600)
    unpack(archive_of(b"new", 0o666, SOURCE_TIME), path)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.stat().st_mtime == SOURCE_TIME


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [False, True])
def test_fifo_where_the_file_is_to_be_is_refused(tmp_path, read):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if read else -1
    with pytest.raises(CpioError, match="is no file"):
        unpack(archive_of(b"x"), path)
    assert stat.S_ISFIFO(path.stat().st_mode)
    if read:
        os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_another_user_has_put_into_a_directory_for_everybody_is_refused(tmp_path, kind):
    tmp_path.chmod(0o1777)
    path = tmp_path / "there"
    if kind == "file":
        path.write_bytes(b"theirs")
        data = archive_of(b"ours")
    else:
        path.mkdir()
        data = archive(TOP, file("f"))
    os.chown(path, 12345, 12345)
    with pytest.raises(CpioError, match="belongs to another user"):
        unpack(data, path)
    assert path.is_dir() or path.read_bytes() == b"theirs"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("other", ["fifo", "link"])
def test_file_that_is_replaced_before_it_is_opened_is_not_read(tmp_path, monkeypatch, other):
    (tmp_path / "secret").write_bytes(b"secret")
    path = tmp_path / "top/file"
    path.parent.mkdir()
    path.write_bytes(b"x")
    lstat = os.lstat

    def replaced(name):
        status = lstat(name)
        path.unlink()
        if other == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("../secret")
        return status

    monkeypatch.setattr(os, "lstat", replaced)
    with pytest.raises((CpioError, OSError), match=r"was replaced|symbolic links"):
        packed(tmp_path / "top")


def test_links_of_a_guest_that_are_not_made_are_counted_and_the_first_are_named(tmp_path):
    links = [symlink(f"l{number}", b"/etc/passwd") for number in range(LEFT_OUT_MAX + 50)]
    unpacker = unpack(archive(TOP, *links), tmp_path / "top")
    assert unpacker.left_out == [f"l{number}" for number in range(LEFT_OUT_MAX)]
    assert unpacker.left_out_count == LEFT_OUT_MAX + 50


def test_directories_of_a_guest_that_take_too_much_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tree_module, "MADE_MAX", 10_000)
    folders = [folder(f"d{number}") for number in range(100)]
    with pytest.raises(CpioError, match="too many directories"):
        unpack(archive(TOP, *folders), tmp_path / "top")
    assert len(os.listdir(tmp_path / "top")) < 30


def test_special_bits_of_a_guest_are_not_set(tmp_path):
    entries = [(".", stat.S_IFDIR | 0o7755, b""), file("f", mode=0o6755), folder("d", 0o7777)]
    with umask(0):
        unpack(archive(*entries), tmp_path / "top")
    assert (tmp_path / "top").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "top/f").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "top/d").stat().st_mode & 0o7777 == 0o777


def test_guest_that_sends_more_than_is_wanted_is_stopped_before_it(tmp_path):
    with pytest.raises(CpioError, match=r"more for .* than was to be taken"):
        unpack(archive(TOP, file("a", bytes(600)), file("b", bytes(600))), tmp_path / "top", limit=1000)
    assert (tmp_path / "top/a").exists()
    assert not (tmp_path / "top/b").exists()
    with pytest.raises(CpioError, match="more for"):
        unpack(Header(".", stat.S_IFREG, SIZE_MAX).pack(1), tmp_path / "file", limit=1000)
    assert not (tmp_path / "file").exists()


NAMES = st.sampled_from(
    [".", "..", "a", "b", "a/b", "a/../b", "a/a", "/a", "l", "l/a", "../out", "a/b/c", ""]
)
MODES = st.sampled_from(
    [stat.S_IFREG | 0o6644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, 0]
)
CONTENTS = st.sampled_from([b"", b"x", b"..", b"../out", b"/", b"a", b".", b"a/..", b"l", b"../../.."])


@given(st.lists(st.tuples(NAMES, MODES, CONTENTS), max_size=8), st.integers(1, 200))
def test_archive_of_anything_writes_only_below_its_destination(tmp_path_factory, entries, piece):
    outer = tmp_path_factory.mktemp("outer")
    destination = outer / "middle/destination"
    (outer / "middle").mkdir()
    (outer / "middle/out").write_bytes(b"precious")
    try:
        unpack(archive(TOP, *entries), destination, piece)
    except (CpioError, OSError):
        pass
    assert sorted(os.listdir(outer)) == ["middle"]
    assert set(os.listdir(outer / "middle")) <= {"out", "destination"}
    assert (outer / "middle/out").read_bytes() == b"precious"
    for path in every(destination) if destination.exists() else []:
        if os.path.islink(path):
            assert os.path.realpath(path).startswith(str(destination))
        else:
            assert not os.lstat(path).st_mode & 0o7000


@given(st.binary(max_size=400), st.integers(1, 50))
def test_unpacker_when_given_anything_only_raises_what_it_documents(tmp_path_factory, data, piece):
    with pytest.raises((CpioError, OSError)):
        unpack(data, tmp_path_factory.getbasetemp() / "anything", piece)
