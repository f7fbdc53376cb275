"""The order of a timeline, over any events that producers may send."""

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfoil_console.timeline import gaps
from counterfoil_consumers.store import Connection

_START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_ordered_by_the_store = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
InOrder = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture
def in_order(operator: Connection) -> InOrder:
    """Orders events as the view `timeline` does: sorted by producer and number, then placed by the store."""
    query = "SELECT event_id FROM in_order(%s::uuid[], %s::uuid[], %s::uuid[], %s::timestamptz[]) ORDER BY place"

    def order(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        given = sorted(events, key=lambda event: (event["producer_id"], event["seq"], event["event_id"]))
        columns = [
            [event[name] for event in given] for name in ("event_id", "producer_id", "causation_id", "occurred_at")
        ]
        by_id = {event["event_id"]: event for event in events}
        return [by_id[row["event_id"]] for row in operator.execute(query, columns)]

    return order


@st.composite
def _events(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events of a few producers, with any clocks, causes and holes."""
    count = draw(st.integers(0, 12))
    seqs: dict[int, int] = {}
    events = []
    for number in range(count):
        producer = draw(st.integers(1, 4))
        seqs[producer] = seqs.get(producer, -1) + draw(st.integers(1, 3))
        cause = draw(st.none() | st.integers(0, count + 1))
        events.append(
            {
                "event_id": uuid.UUID(int=number),
                "kind": "review",
                "producer_id": uuid.UUID(int=producer),
                "seq": seqs[producer],
                "causation_id": None if cause is None else uuid.UUID(int=cause),
                "occurred_at": _START + dt.timedelta(seconds=draw(st.integers(0, 5))),
            }
        )
    return draw(st.permutations(events))


def _possible_predecessors(events: list[dict[str, Any]]) -> dict[uuid.UUID, set[uuid.UUID]]:
    """What must come before each event: its cause, and what its producer said before."""
    ids = {event["event_id"] for event in events}
    return {
        event["event_id"]: ({event["causation_id"]} & ids)
        | {one["event_id"] for one in events if _precedes(one, event)}
        for event in events
    }


def _precedes(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["producer_id"] == other["producer_id"] and one["seq"] < other["seq"])


@_ordered_by_the_store
@given(_events())
def test_every_event_is_shown_once_whatever_the_causes_say(in_order: InOrder, events: list[dict[str, Any]]) -> None:
    assert sorted(event["event_id"] for event in in_order(events)) == sorted(event["event_id"] for event in events)


@_ordered_by_the_store
@given(_events())
def test_a_producer_is_shown_in_its_own_order(in_order: InOrder, events: list[dict[str, Any]]) -> None:
    ordered = in_order(events)
    for producer in {event["producer_id"] for event in events}:
        seqs = [event["seq"] for event in ordered if event["producer_id"] == producer]
        assert seqs == sorted(seqs)


@_ordered_by_the_store
@given(_events())
def test_nothing_is_shown_before_its_cause_unless_causes_go_round(
    in_order: InOrder, events: list[dict[str, Any]]
) -> None:
    needed = _possible_predecessors(events)
    try:
        list(TopologicalSorter(needed).static_order())
    except CycleError:
        return
    seen: set[uuid.UUID] = set()
    for event in in_order(events):
        assert needed[event["event_id"]] <= seen
        seen.add(event["event_id"])


@_ordered_by_the_store
@given(_events())
def test_the_order_of_arrival_does_not_matter(in_order: InOrder, events: list[dict[str, Any]]) -> None:
    assert in_order(events) == in_order(list(reversed(events)))


@given(_events())
def test_gaps_are_what_lacks_before_the_last_number(events: list[dict[str, Any]]) -> None:
    missing = {(gap.producer_id, seq) for gap in gaps(events) for seq in range(gap.first_seq, gap.last_seq + 1)}
    seen = {(event["producer_id"], event["seq"]) for event in events}
    last = {producer: max(seq for other, seq in seen if other == producer) for producer, _ in seen}
    assert missing | seen == {(producer, seq) for producer in last for seq in range(last[producer] + 1)}
    assert not missing & seen


def test_a_number_beyond_all_reason_costs_nothing() -> None:
    event = {"event_id": uuid.UUID(int=1), "kind": "review", "producer_id": uuid.UUID(int=2), "seq": 2**62 - 1}
    [gap] = gaps([event])
    assert (gap.first_seq, gap.last_seq) == (0, 2**62 - 2)


def test_two_lanes_that_wait_for_each_other_are_shown_earliest_first(in_order: InOrder) -> None:
    def event(number: int, producer: int, cause: int, second: int) -> dict[str, Any]:
        return {
            "event_id": uuid.UUID(int=number),
            "producer_id": uuid.UUID(int=producer),
            "seq": 0,
            "causation_id": uuid.UUID(int=cause),
            "occurred_at": _START + dt.timedelta(seconds=second),
        }

    ordered = in_order([event(1, 1, 2, 9), event(2, 2, 1, 3), event(3, 3, 2, 1)])
    assert [event["event_id"].int for event in ordered] == [2, 3, 1]
