"""Every refusal of the board, by name, and what it allows."""

from __future__ import annotations

import pytest

from pyvmm.board.board import Board, PlacementError
from pyvmm.board.space import DEVICE, DOORBELL, IRQ, MMIO, PORT, RAM, RESERVED, ROM
from pyvmm.errors import ConfigError


@pytest.fixture
def board() -> Board:
    return Board({MMIO: [(0xD000_0000, 0xD000_4000)], IRQ: [(5, 8), (10, 12)]})


def refused(board: Board, *args: object, **options: object) -> str:
    """The message with which ``place`` refuses; nothing may be placed by it."""
    before = board.describe()
    with pytest.raises(PlacementError) as caught:
        board.place(*args, **options)  # type: ignore[arg-type]
    assert board.describe() == before
    assert isinstance(caught.value, ConfigError)
    return str(caught.value)


def test_place_when_free_returns_the_window(board: Board) -> None:
    window = board.place(MMIO, 0x1000, 0x200, "uart", DEVICE)

    assert (window.space, window.base, window.size, window.end) == (MMIO, 0x1000, 0x200, 0x1200)
    assert (window.owner, window.kind) == ("uart", DEVICE)
    assert board.windows(MMIO) == [window]


@pytest.mark.parametrize(
    ("base", "size"), [(0x1000, 0x1000), (0xFFF, 2), (0x1FFF, 1), (0, 0x10000), (0x1800, 4)]
)
def test_place_when_overlapping_names_both_owners_with_ranges(board: Board, base: int, size: int) -> None:
    board.place(MMIO, 0x1000, 0x1000, "first", DEVICE)

    message = refused(board, MMIO, base, size, "second", DEVICE)

    assert "mmio 0x1000-0x1fff of 'first'" in message
    assert "of 'second'" in message and f"{base:#x}" in message


@pytest.mark.parametrize(("base", "size"), [(0xFFF, 1), (0x2000, 1), (0, 0x1000)])
def test_place_when_adjacent_is_accepted(board: Board, base: int, size: int) -> None:
    board.place(MMIO, 0x1000, 0x1000, "first", DEVICE)

    board.place(MMIO, base, size, "second", DEVICE)

    assert len(board.windows(MMIO)) == 2


@pytest.mark.parametrize("first", [RAM, ROM, DEVICE, RESERVED])
@pytest.mark.parametrize("second", [RAM, ROM, DEVICE, RESERVED])
def test_place_when_overlapping_is_refused_for_every_pair_of_kinds(
    board: Board, first: int, second: int
) -> None:
    board.place(MMIO, 0xFEE0_0000, 0x1000, "local apic", first)

    message = refused(board, MMIO, 0xFEE0_0FFF, 0x1000, "other", second)

    assert "'local apic'" in message and "'other'" in message


def test_place_when_the_same_owner_overlaps_itself_is_refused(board: Board) -> None:
    board.place(PORT, 0x60, 4, "i8042")

    assert "'i8042'" in refused(board, PORT, 0x63, 2, "i8042")


def test_place_when_numbers_are_equal_in_different_spaces_is_accepted(board: Board) -> None:
    board.place(MMIO, 4, 1, "memory")
    board.place(PORT, 4, 1, "dma")
    board.place(IRQ, 4, 1, "com1")

    assert [window.owner for space in (MMIO, PORT, IRQ) for window in board.windows(space)] == [
        "memory",
        "dma",
        "com1",
    ]


@pytest.mark.parametrize(
    ("space", "base", "size"),
    [
        (MMIO, -1, 2),
        (MMIO, 1 << 52, 1),
        (MMIO, (1 << 52) - 1, 2),
        (MMIO, 0, 0),
        (MMIO, 0, -1),
        (PORT, 0xFFFF, 2),
        (PORT, 0x10000, 1),
        (IRQ, 4096, 1),
        (IRQ, -1, 1),
    ],
)
def test_place_when_outside_the_space_is_refused(board: Board, space: int, base: int, size: int) -> None:
    assert "'far' asks for" in refused(board, space, base, size, "far")


def test_place_when_it_ends_with_the_space_is_accepted(board: Board) -> None:
    assert board.place(PORT, 0xFFFF, 1, "last").end == 0x10000
    assert board.place(MMIO, (1 << 52) - 1, 1, "last").end == 1 << 52


def test_place_when_the_owner_has_no_name_is_refused(board: Board) -> None:
    assert "has no owner" in refused(board, MMIO, 0, 1, "")


def test_register_when_the_name_is_taken_is_refused(board: Board) -> None:
    board.register("net0")

    with pytest.raises(PlacementError, match="two components are called 'net0'"):
        board.register("net0")


# Interrupt lines


def test_line_when_both_share_it_is_accepted(board: Board) -> None:
    board.place(IRQ, 5, 1, "net0", shared=True)
    board.place(IRQ, 5, 1, "net1", shared=True)

    assert [window.owner for window in board.windows(IRQ)] == ["net0", "net1"]


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (False, True)])
def test_line_when_one_does_not_share_it_is_refused(board: Board, first: bool, second: bool) -> None:
    board.place(IRQ, 4, 1, "com1", shared=first)

    message = refused(board, IRQ, 4, 1, "com3", shared=second)

    assert message == "irq 4 of 'com3' is also irq 4 of 'com1'; declare both shared, or move one of them"


def test_line_when_one_of_three_does_not_share_it_is_refused(board: Board) -> None:
    board.place(IRQ, 5, 1, "one", shared=True)
    board.place(IRQ, 5, 1, "two", shared=True)

    assert "'three'" in refused(board, IRQ, 5, 1, "three")


def test_eventfd_when_on_its_owners_line_is_accepted(board: Board) -> None:
    board.place(IRQ, 5, 1, "net0")

    board.place(IRQ, 5, 1, "net0", DOORBELL)

    assert len(board.windows(IRQ)) == 2


def test_eventfd_when_a_second_one_drives_the_line_is_refused(board: Board) -> None:
    board.place(IRQ, 5, 1, "net0", DOORBELL)

    assert "'net0'" in refused(board, IRQ, 5, 1, "net0", DOORBELL)
    assert "'net0'" in refused(board, IRQ, 5, 1, "net1", DOORBELL, shared=True)


def test_eventfd_when_all_share_the_line_is_accepted(board: Board) -> None:
    board.place(IRQ, 5, 1, "net0", DOORBELL, shared=True)
    board.place(IRQ, 5, 1, "net1", DOORBELL, shared=True)

    assert len(board.windows(IRQ)) == 2


def test_shared_when_not_a_line_is_refused(board: Board) -> None:
    assert "only interrupt lines can" in refused(board, MMIO, 0, 8, "net0", shared=True)


# Doorbells


@pytest.mark.parametrize("ram_first", [True, False])
def test_doorbell_when_inside_ram_is_refused(board: Board, ram_first: bool) -> None:
    ram = (MMIO, 0, 0x10000, "ram", RAM)
    bell = (MMIO, 0x8000, 4, "net0", DOORBELL)
    first, second = (ram, bell) if ram_first else (bell, ram)
    board.place(*first)

    message = refused(board, *second)

    assert message.startswith("doorbell mmio 0x8000-0x8003 of 'net0' lies in RAM mmio 0x0-0xffff of 'ram'")


def test_doorbell_when_inside_its_own_ram_is_refused(board: Board) -> None:
    board.place(MMIO, 0, 0x10000, "net0", RAM)

    assert "no write rings it" in refused(board, MMIO, 0x8000, 4, "net0", DOORBELL)


@pytest.mark.parametrize("bell_first", [True, False])
def test_doorbell_when_inside_its_owners_device_is_accepted(board: Board, bell_first: bool) -> None:
    places = [(MMIO, 0xD000_0000, 0x200, "net0", DEVICE), (MMIO, 0xD000_0050, 4, "net0", DOORBELL)]

    for place in reversed(places) if bell_first else places:
        board.place(*place)

    assert [window.kind for window in board.windows(MMIO)] == [DEVICE, DOORBELL]


@pytest.mark.parametrize("kind", [DEVICE, ROM, RESERVED])
def test_doorbell_when_inside_another_owners_window_is_refused(board: Board, kind: int) -> None:
    board.place(MMIO, 0xD000_0000, 0x200, "net0", kind)

    message = refused(board, MMIO, 0xD000_01FE, 4, "blk0", DOORBELL)

    assert "'net0'" in message and "'blk0'" in message


@pytest.mark.parametrize(
    ("first", "second"),
    [(None, None), (None, 0), (0, None), (1, 1)],
    ids=["any-any", "any-0", "0-any", "1-1"],
)
@pytest.mark.parametrize("owner", ["net0", "net1"])
def test_doorbells_when_they_ring_at_the_same_write_are_refused(
    board: Board, first: int | None, second: int | None, owner: str
) -> None:
    board.place(MMIO, 0x50, 4, "net0", DOORBELL, datamatch=first)

    message = refused(board, MMIO, 0x50, 4, owner, DOORBELL, datamatch=second)

    assert "ring at the same write" in message
    assert "'net0'" in message and f"'{owner}'" in message


def test_doorbells_when_values_differ_are_accepted(board: Board) -> None:
    for queue in range(4):
        board.place(MMIO, 0x50, 4, "net0", DOORBELL, datamatch=queue)

    assert len(board.windows(MMIO)) == 4


def test_doorbells_when_widths_differ_are_one_owners_only(board: Board) -> None:
    board.place(MMIO, 0x50, 4, "net0", DOORBELL)

    board.place(MMIO, 0x50, 2, "net0", DOORBELL)

    assert "'net1'" in refused(board, MMIO, 0x52, 2, "net1", DOORBELL)


@pytest.mark.parametrize("size", [3, 16])
def test_doorbell_when_of_an_odd_width_is_refused(board: Board, size: int) -> None:
    assert "KVM takes 1, 2, 4 or 8" in refused(board, MMIO, 0, size, "net0", DOORBELL)


@pytest.mark.parametrize(("size", "value"), [(1, 256), (4, 1 << 32), (8, -1)])
def test_doorbell_when_the_value_does_not_fit_is_refused(board: Board, size: int, value: int) -> None:
    assert "cannot hold" in refused(board, PORT, 0, size, "net0", DOORBELL, datamatch=value)


@pytest.mark.parametrize(("space", "kind"), [(MMIO, DEVICE), (IRQ, DOORBELL)])
def test_datamatch_when_not_an_address_doorbell_is_refused(board: Board, space: int, kind: int) -> None:
    assert "has a datamatch" in refused(board, space, 0, 1, "net0", kind, datamatch=1)


# Arenas


def test_allocate_when_some_is_taken_gives_the_first_free_place(board: Board) -> None:
    board.place(MMIO, 0xD000_0000, 0x100, "fixed")

    first = board.allocate(MMIO, 0x1000, "one", 0x1000)
    second = board.allocate(MMIO, 0x200, "two", 0x200)

    assert (first.base, second.base) == (0xD000_1000, 0xD000_0200)


def test_allocate_when_the_arena_is_full_says_so(board: Board) -> None:
    board.allocate(MMIO, 0x4000, "big", 0x1000)

    with pytest.raises(PlacementError) as caught:
        board.allocate(MMIO, 0x1000, "net0", 0x1000)

    assert str(caught.value) == (
        "no room for 0x1000 in the mmio arena 0xd0000000-0xd0003fff, asked for by 'net0'; "
        "remove a device, or give one a fixed place elsewhere"
    )


def test_allocate_when_a_doorbell_stands_in_the_way_goes_around_it(board: Board) -> None:
    board.place(MMIO, 0xD000_0FFC, 8, "bell", DOORBELL)

    assert board.allocate(MMIO, 0x1000, "net0", 0x1000).base == 0xD000_2000


def test_allocate_when_the_space_has_no_arena_says_so(board: Board) -> None:
    with pytest.raises(PlacementError, match="the port space, which has no arena"):
        board.allocate(PORT, 8, "com1")


@pytest.mark.parametrize(("size", "align"), [(0, 1), (-1, 1), (1, 0), (1, -4)])
def test_allocate_when_asked_for_nothing_is_refused(board: Board, size: int, align: int) -> None:
    with pytest.raises(PlacementError, match="must be above 0"):
        board.allocate(MMIO, size, "net0", align)


def test_allocate_when_lines_are_free_gives_each_owner_its_own(board: Board) -> None:
    lines = [board.allocate(IRQ, 1, f"net{index}", shared=True).base for index in range(5)]

    assert lines == [5, 6, 7, 10, 11]


def test_allocate_when_lines_run_out_shares_them_evenly(board: Board) -> None:
    for index in range(15):
        board.allocate(IRQ, 1, f"net{index}", shared=True)

    bases = [window.base for window in board.windows(IRQ)]
    assert {line: bases.count(line) for line in bases} == {5: 3, 6: 3, 7: 3, 10: 3, 11: 3}


def test_allocate_when_lines_run_out_never_shares_one_that_is_not(board: Board) -> None:
    for index in range(5):
        board.allocate(IRQ, 1, f"own{index}")

    with pytest.raises(PlacementError, match="no room for 0x1 in the irq arena 5-7, 10-11"):
        board.allocate(IRQ, 1, "net0", shared=True)


@pytest.mark.parametrize("arena", [(8, 5), (-1, 5), (5, 5), (0, 5000)])
def test_board_when_an_arena_is_wrong_refuses_it(arena: tuple[int, int]) -> None:
    with pytest.raises(PlacementError, match="is no range inside the space"):
        Board({IRQ: [arena]})


def test_describe_lists_every_window_once_in_order(board: Board) -> None:
    board.place(PORT, 0x3F8, 8, "com1")
    board.place(IRQ, 4, 1, "com1")
    board.place(MMIO, 0xD000_0050, 4, "net0", DOORBELL)
    board.place(MMIO, 0xD000_0000, 0x200, "net0")
    board.place(MMIO, 0, 0xA0000, "ram", RAM)

    assert [line.split() for line in board.describe().splitlines()] == [
        ["mmio", "0x0-0x9ffff", "ram", "ram"],
        ["mmio", "0xd0000000-0xd00001ff", "device", "net0"],
        ["mmio", "0xd0000050-0xd0000053", "doorbell", "net0"],
        ["port", "0x3f8-0x3ff", "device", "com1"],
        ["irq", "4", "device", "com1"],
    ]
