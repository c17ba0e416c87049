"""Host objects: what they give, what they refuse, and that views outlive close()."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
from pathlib import Path

import pytest

from pyvmm.memory import host as host_module
from pyvmm.memory.errors import HostMemoryError, MemoryConfigError
from pyvmm.memory.host import (
    HUGE_PAGE_SIZE,
    PAGE_SIZE,
    PHYSICAL_LIMIT,
    Anonymous,
    FileBacked,
    Hugetlb,
    Memfd,
)
from tests.support.process import mapping_of

MAKERS = [Anonymous, Memfd]


@pytest.mark.parametrize("maker", MAKERS)
def test_buffer_when_made_is_zero_and_of_the_size(maker: type) -> None:
    host = maker(3 * PAGE_SIZE)

    assert host.size == len(host.buffer) == 3 * PAGE_SIZE
    assert bytes(host.buffer) == bytes(3 * PAGE_SIZE)
    host.close()


@pytest.mark.parametrize("maker", MAKERS)
def test_memory_is_left_out_of_core_dumps(maker: type) -> None:
    host = maker(4 * PAGE_SIZE)
    host.buffer[0] = 1

    entry = mapping_of(host.address)
    assert entry is not None
    assert "dd" in entry["VmFlags"].split()
    host.close()


@pytest.mark.parametrize("maker", MAKERS)
def test_address_when_written_through_shows_in_the_buffer(maker: type) -> None:
    host = maker(2 * PAGE_SIZE)

    ctypes.memmove(host.address + PAGE_SIZE, b"there", 5)

    assert bytes(host.buffer[PAGE_SIZE : PAGE_SIZE + 5]) == b"there"
    host.close()


@pytest.mark.parametrize("maker", MAKERS)
def test_close_when_a_view_is_held_keeps_its_pages(maker: type) -> None:
    host = maker(PAGE_SIZE)
    view = host.buffer[:4]
    view[:] = b"kept"

    host.close()
    gc.collect()

    assert bytes(view) == b"kept"


@pytest.mark.parametrize("maker", MAKERS)
def test_close_when_no_view_is_held_unmaps(maker: type) -> None:
    host = maker(64 * PAGE_SIZE)
    address = host.address
    host.buffer[0] = 1
    before = mapping_of(address)

    host.close()

    assert before is not None
    after = mapping_of(address)
    assert after is None or after["Size"] != before["Size"]


@pytest.mark.parametrize("maker", MAKERS)
def test_close_when_called_twice_does_nothing_more(maker: type) -> None:
    host = maker(PAGE_SIZE)

    host.close()
    host.close()

    with pytest.raises(ValueError, match="released"):
        host.buffer[0]


@pytest.mark.parametrize("size", [0, -PAGE_SIZE, 1, PAGE_SIZE + 1, PHYSICAL_LIMIT + PAGE_SIZE, 1 << 70])
@pytest.mark.parametrize("maker", MAKERS)
def test_make_when_the_size_is_unusable_is_refused(maker: type, size: int) -> None:
    with pytest.raises(MemoryConfigError, match="not usable; it must be a multiple"):
        maker(size)


def test_anonymous_when_made_is_private_and_2m_aligned() -> None:
    host = Anonymous(HUGE_PAGE_SIZE)
    host.buffer[0] = 1

    entry = mapping_of(host.address)

    assert host.address % HUGE_PAGE_SIZE == 0
    assert entry is not None and entry["perms"] == "rw-p"
    assert host.fd == -1
    host.close()


def test_anonymous_when_larger_than_the_hosts_ram_is_made() -> None:
    ram = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    size = -(-2 * ram // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this host forbids overcommit (vm.overcommit_memory=2)")

    host = Anonymous(size)
    host.buffer[size - 1] = 7

    assert host.buffer[size - 1] == 7
    host.close()


def test_anonymous_when_the_host_allows_it_uses_huge_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this host has no transparent huge pages")
    host = Anonymous(8 * HUGE_PAGE_SIZE)

    for offset in range(0, host.size, PAGE_SIZE):
        host.buffer[offset] = 1

    entry = mapping_of(host.address)
    assert entry is not None
    assert "hg" in entry["VmFlags"].split()
    if int(entry["AnonHugePages"].split()[0]) == 0:
        pytest.skip("this host allows huge pages but had none free")
    assert int(entry["AnonHugePages"].split()[0]) * 1024 == host.size
    host.close()


def test_anonymous_when_madvise_is_unknown_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 0x7FFF)

    host = Anonymous(PAGE_SIZE)

    assert len(host.buffer) == PAGE_SIZE
    host.close()


def test_anonymous_when_the_host_has_no_address_space_says_what_to_do() -> None:
    with pytest.raises(HostMemoryError, match=r"refused 4096T of memory .*ask for less"):
        Anonymous(PHYSICAL_LIMIT)


def test_memfd_when_mapped_again_shares_its_bytes() -> None:
    host = Memfd(2 * PAGE_SIZE)
    other = mmap.mmap(host.fd, 2 * PAGE_SIZE)

    other[PAGE_SIZE] = 42

    assert host.buffer[PAGE_SIZE] == 42
    other.close()
    host.close()


def test_memfd_refuses_truncation() -> None:
    host = Memfd(2 * PAGE_SIZE)

    with pytest.raises(PermissionError):
        os.ftruncate(host.fd, PAGE_SIZE)
    with pytest.raises(PermissionError):
        os.ftruncate(host.fd, 4 * PAGE_SIZE)
    host.close()


def test_memfd_refuses_further_seals() -> None:
    host = Memfd(PAGE_SIZE)

    future_write = 0x10  # F_SEAL_FUTURE_WRITE
    result = ctypes.CDLL(None, use_errno=True).fcntl(host.fd, host_module.F_ADD_SEALS, future_write)

    assert (result, ctypes.get_errno()) == (-1, errno.EPERM)
    host.close()


@pytest.mark.parametrize("maker", MAKERS)
def test_close_when_done_leaves_no_descriptor(maker: type) -> None:
    before = sorted(os.listdir("/proc/self/fd"))

    maker(PAGE_SIZE).close()

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_memfd_when_the_host_refuses_leaves_no_descriptor() -> None:
    before = sorted(os.listdir("/proc/self/fd"))

    with pytest.raises(HostMemoryError, match="refused a memfd of 4096T"):
        Memfd(PHYSICAL_LIMIT)

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_hugetlb_when_the_size_is_not_whole_huge_pages_is_refused() -> None:
    with pytest.raises(MemoryConfigError, match="multiple of 0x200000"):
        Hugetlb(PAGE_SIZE)


def test_hugetlb_when_the_pool_is_too_small_says_what_to_do() -> None:
    with pytest.raises(HostMemoryError, match=r"no 524288 free huge pages.*sysctl vm\.nr_hugepages"):
        Hugetlb(1 << 40)


def test_hugetlb_when_the_pool_has_pages_gives_them() -> None:
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not pool.exists() or int(pool.read_text()) < 1:
        pytest.skip("this host has no free hugetlb pages")
    host = Hugetlb(HUGE_PAGE_SIZE)
    host.buffer[0] = 1

    entry = mapping_of(host.address)

    with pytest.raises(PermissionError):
        os.ftruncate(host.fd, 0)
    assert entry is not None and entry["KernelPageSize"] == "2048 kB"
    host.close()


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    path.write_bytes(b"A" * PAGE_SIZE + b"B" * PAGE_SIZE)
    return path


def test_file_when_written_changes_the_file(page_file: Path) -> None:
    host = FileBacked(page_file)

    host.buffer[PAGE_SIZE] = ord("x")
    host.close()

    assert page_file.read_bytes()[PAGE_SIZE : PAGE_SIZE + 2] == b"xB"


def test_file_when_private_leaves_the_file(page_file: Path) -> None:
    page_file.chmod(0o444)
    host = FileBacked(page_file, private=True)

    host.buffer[0] = ord("x")

    assert bytes(host.buffer[:2]) == b"xA"
    assert page_file.read_bytes()[:2] == b"AA"
    assert host.fd == -1
    host.close()


def test_file_when_readonly_refuses_writes_and_has_an_address(page_file: Path) -> None:
    host = FileBacked(page_file, readonly=True)

    with pytest.raises(TypeError, match="read-only"):
        host.buffer[0] = 1

    assert ctypes.string_at(host.address + PAGE_SIZE, 2) == b"BB"
    host.close()


def test_file_when_readonly_and_private_is_refused(page_file: Path) -> None:
    with pytest.raises(MemoryConfigError, match="pick one"):
        FileBacked(page_file, readonly=True, private=True)


@pytest.mark.timeout(20)  # opening a FIFO carelessly waits for its other end
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "cannot be mapped: No such file"),
        (lambda path: path.mkdir(), "cannot be mapped: Is a directory|is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.touch(), "has 0 bytes; it must have a multiple of"),
        (lambda path: path.write_bytes(bytes(PAGE_SIZE + 1)), f"has {PAGE_SIZE + 1} bytes"),
    ],
)
def test_file_when_unusable_is_refused_by_path_and_leaves_no_descriptor(
    tmp_path: Path, prepare: object, message: str, readonly: bool
) -> None:
    path = tmp_path / "ram"
    prepare(path)  # type: ignore[operator]
    before = sorted(os.listdir("/proc/self/fd"))

    with pytest.raises(HostMemoryError, match=message) as caught:
        FileBacked(path, readonly=readonly)

    assert str(path) in str(caught.value)
    assert sorted(os.listdir("/proc/self/fd")) == before
