"""Where a sweep begins to read changes: no change is passed over that is seen no later than the contract allows."""

import datetime as dt

from hypothesis import example, given, settings
from hypothesis import strategies as st

from counterfoil_reconcilers.positions import Position, beginning, kept

START = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
LATE = 10
Changes = list[tuple[int, int]]  # when each was made, which is its place, and how much later it can be seen


def at(second: int) -> dt.datetime:
    return START + dt.timedelta(seconds=second)


def missed(changes: Changes, pauses: list[int], late: int = LATE) -> Changes:
    """What sweeps read of changes, made by a target that keeps its word; the first is a baseline, which reads all."""
    known: list[Position] = []
    seen: set[tuple[int, int]] = set()
    now = 0
    for pause in pauses:
        now += pause
        visible = [change for change in changes if sum(change) <= now]
        begin = beginning(known, dt.timedelta(seconds=late)) if known else None
        known.append(Position(str(max((made for made, _ in visible), default=-1)), at(now)))
        known = list(kept(known, dt.timedelta(seconds=late)))
        seen |= {one for one in visible if begin is None or one[0] >= int(begin.place or 0)}
    return [change for change in changes if sum(change) <= now and change not in seen]


CHANGES = st.lists(st.tuples(st.integers(0, 80), st.integers(0, LATE)), max_size=30)


@settings(max_examples=500)
@given(CHANGES, st.lists(st.integers(0, 25), min_size=1, max_size=20))
@example([(15, 7), (20, 0)], [0, 20, 1, 1])
@example([(19, 10), (20, 0)], [0, 20, 20, 20])
def test_whatever_the_pauses_no_change_that_is_late_within_bounds_is_missed(
    changes: Changes, pauses: list[int]
) -> None:
    assert missed(changes, pauses) == []


def test_what_is_later_than_that_may_be_missed() -> None:
    """So the test above can tell: sweeps at 0, 20, 40 and so on, and a change made at 19 that is seen at 45."""
    assert missed([(19, 26), (20, 0)], [0, 20, 20, 20, 20]) == [(19, 26)]


def test_only_what_a_sweep_may_begin_at_is_kept() -> None:
    known: list[Position] = []
    for sweep in range(100):
        known = list(kept([*known, Position(str(sweep), at(30 * sweep))], dt.timedelta(seconds=60)))
        assert len(known) <= 3
    begin = beginning(known, dt.timedelta(seconds=60))
    assert begin is not None
    assert begin.place == "97"


def test_until_one_is_old_enough_all_is_read() -> None:
    late = dt.timedelta(seconds=60)
    assert beginning([], late) is None
    assert beginning([Position("5", at(0)), Position("6", at(59))], late) is None
    assert beginning([Position("5", at(0)), Position("6", at(60))], late) == Position("5", at(0))
    assert beginning([Position(None, at(0))], dt.timedelta(0)) == Position(None, at(0))
