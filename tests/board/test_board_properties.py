"""The overlap rule with random layouts, judged by an all-pairs check of its own."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.board.board import Board, PlacementError
from pyvmm.board.space import DEVICE, DOORBELL, IRQ, MMIO, PORT, RAM, RESERVED, ROM


class Wish(NamedTuple):
    space: int
    base: int
    size: int
    kind: int
    owner: str
    shared: bool
    datamatch: int | None


SOLID = st.builds(
    Wish,
    st.sampled_from([MMIO, PORT]),
    st.integers(0, 63),
    st.integers(1, 24),
    st.sampled_from([RAM, ROM, DEVICE, RESERVED]),
    st.sampled_from("abcd"),
    st.just(False),
    st.none(),
)
BELLS = st.builds(
    Wish,
    st.sampled_from([MMIO, PORT]),
    st.integers(0, 80),
    st.sampled_from([1, 2, 4, 8]),
    st.just(DOORBELL),
    st.sampled_from("abcd"),
    st.just(False),
    st.one_of(st.none(), st.integers(0, 2)),
)
LINES = st.builds(
    Wish,
    st.just(IRQ),
    st.integers(0, 15),
    st.integers(1, 2),
    st.sampled_from([DEVICE, DOORBELL]),
    st.sampled_from("abcd"),
    st.booleans(),
    st.none(),
)
WISHES = st.lists(st.one_of(SOLID, BELLS, LINES), max_size=24)


def meet(one: Wish, other: Wish) -> bool:
    return (
        one.space == other.space and one.base < other.base + other.size and other.base < one.base + one.size
    )


def can_stand(one: Wish, other: Wish) -> bool:
    """The rule again, written as what KVM and the devices need of two windows that meet."""
    bells = (one.kind == DOORBELL) + (other.kind == DOORBELL)
    own = one.owner == other.owner
    if one.space == IRQ:
        return (one.shared and other.shared) or (own and bells == 1)
    if bells == 0:
        return False
    if bells == 1:
        return own and DEVICE in (one.kind, other.kind)
    if (one.base, one.size) != (other.base, other.size):
        return own
    return one.datamatch is not None and other.datamatch is not None and one.datamatch != other.datamatch


def place(board: Board, wish: Wish) -> str | None:
    """What the board says against *wish*; None when it is placed."""
    try:
        board.place(*wish[:3], wish.owner, wish.kind, shared=wish.shared, datamatch=wish.datamatch)
    except PlacementError as error:
        return str(error)
    return None


@given(WISHES)
def test_place_accepts_exactly_what_can_stand_and_names_both_owners_otherwise(wishes: list[Wish]) -> None:
    board = Board()
    accepted: list[Wish] = []

    for wish in wishes:
        blockers = [other for other in accepted if meet(wish, other) and not can_stand(wish, other)]
        refusal = place(board, wish)
        if refusal is None:
            assert not blockers
            accepted.append(wish)
        else:
            assert f"of '{wish.owner}'" in refusal
            assert any(f"of '{other.owner}'" in refusal for other in blockers)

    for space in (MMIO, PORT, IRQ):
        placed = board.windows(space)
        assert sorted((window.base, window.size, window.owner) for window in placed) == sorted(
            (wish.base, wish.size, wish.owner) for wish in accepted if wish.space == space
        )


@given(st.lists(SOLID, max_size=24))
def test_windows_without_doorbells_are_pairwise_disjoint(wishes: list[Wish]) -> None:
    board = Board()

    for wish in wishes:
        place(board, wish)

    for space in (MMIO, PORT):
        taken = [number for window in board.windows(space) for number in range(window.base, window.end)]
        assert len(taken) == len(set(taken))


@given(
    st.lists(SOLID, max_size=12),
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 3, 4, 8])), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=2),
)
def test_allocate_takes_the_lowest_free_place_or_there_is_none(
    fixed: list[Wish], requests: list[tuple[int, int]], arenas: list[tuple[int, int]]
) -> None:
    ranges = [(start, start + length) for start, length in arenas]
    board = Board({MMIO: ranges})
    for wish in fixed:
        place(board, wish._replace(space=MMIO))

    for size, align in requests:
        taken = {number for window in board.windows(MMIO) for number in range(window.base, window.end)}
        candidates = [
            base
            for start, end in ranges
            for base in range(start, end - size + 1)
            if base % align == 0 and taken.isdisjoint(range(base, base + size))
        ]
        try:
            window = board.allocate(MMIO, size, "new", align)
        except PlacementError:
            assert not candidates
        else:
            assert window.base == candidates[0]
