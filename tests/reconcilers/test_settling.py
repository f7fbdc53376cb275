"""When a verdict may be said: every condition alone keeps it back."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from counterfoil_reconcilers.settling import (
    Facts,
    Horizon,
    Producer,
    Progress,
    Sighting,
    is_at_rest,
    is_change_settled,
    is_settled,
    may_be_said_at_once,
    sighted,
)

NOW = dt.datetime(2026, 11, 5, 12, tzinfo=dt.UTC)
FENCE = (10, 20, 0)
SETTLE = dt.timedelta(seconds=30)
BEATS = dt.timedelta(seconds=5)


def ago(seconds: float) -> dt.datetime:
    return NOW - dt.timedelta(seconds=seconds)


ALIVE = Producer(partition=1, beat_offset=20, beat_interval=BEATS, last_at=ago(1))
SILENT = replace(ALIVE, beat_offset=19)
SEEN_TWICE = Sighting("not_applied", b"rows", FENCE, ago(60), count=2)
DONE = Facts("ok", ago(31), 0, None)
PAST = Progress((10, 20, 0), [ALIVE], NOW, lost_after=dt.timedelta(seconds=30))


def test_it_settles_when_nothing_stands_against_it() -> None:
    assert is_settled(SEEN_TWICE, DONE, SETTLE, PAST)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"facts": replace(DONE, last_at=ago(29))}, "the target's window"),
        ({"sighting": replace(SEEN_TWICE, count=1)}, "one sighting only"),
        ({"progress": replace(PAST, ingested=(9, 20, 0))}, "one partition behind the fence"),
        ({"progress": replace(PAST, ingested=(11, 19, 7))}, "others further do not make up for it"),
        ({"progress": replace(PAST, producers=[ALIVE, SILENT])}, "an open producer without a beat past the fence"),
        (
            {"progress": replace(PAST, producers=[replace(SILENT, last_at=ago(29))])},
            "silent for less than half a minute, however many beats that are",
        ),
        (
            {"progress": replace(PAST, producers=[replace(SILENT, beat_interval=4 * BEATS, last_at=ago(59))])},
            "silent for less than three of its beats",
        ),
        ({"facts": replace(DONE, outcome="accepted", accept_deadline=ago(-1))}, "accepted, before its deadline"),
        ({"facts": replace(DONE, in_flight=1)}, "an attempt under way"),
        ({"progress": replace(PAST, known_until=ago(2))}, "what is not ingested yet may be younger than the window"),
    ],
)
def test_every_condition_alone_keeps_it_back(changed: dict[str, Any], why: str) -> None:
    given: dict[str, Any] = {"sighting": SEEN_TWICE, "facts": DONE, "settle": SETTLE, "progress": PAST} | changed
    assert not is_settled(**given), why


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"progress": replace(PAST, producers=[replace(SILENT, last_at=ago(31))])},
            "a lost producer is not waited for",
        ),
        ({"progress": replace(PAST, producers=[])}, "no producer is open"),
        ({"progress": replace(PAST, ingested=(99, 99, 99))}, "ingested further than the fence"),
        ({"facts": replace(DONE, outcome="accepted", accept_deadline=ago(0))}, "accepted, and its deadline came"),
        ({"facts": replace(DONE, in_flight=1, last_at=ago(301))}, "under way for longer than any write"),
        (
            {"facts": replace(DONE, in_flight=1), "progress": replace(PAST, producers=[])},
            "under way, but nobody is there who acts",
        ),
        ({"facts": replace(DONE, in_flight=-1)}, "more results than intents"),
    ],
)
def test_what_does_not_keep_it_back(changed: dict[str, Any], why: str) -> None:
    given: dict[str, Any] = {"sighting": SEEN_TWICE, "facts": DONE, "settle": SETTLE, "progress": PAST} | changed
    assert is_settled(**given), why


@pytest.mark.parametrize("verdict", ["not_applied", "partial", "duplicated", "mismatched", "unknowable"])
def test_only_applied_stands_while_an_attempt_is_under_way(verdict: str) -> None:
    under_way = replace(DONE, in_flight=1)
    accepted = replace(DONE, outcome="accepted", accept_deadline=ago(-60))
    for facts in (under_way, accepted):
        assert not is_settled(replace(SEEN_TWICE, verdict=verdict), facts, SETTLE, PAST)
        assert is_settled(replace(SEEN_TWICE, verdict="applied"), facts, SETTLE, PAST)
    assert not is_at_rest(under_way, PAST), "but it is not closed"


@pytest.mark.parametrize(
    ("verdict", "outcome", "at_once"),
    [
        ("applied", "ok", True),
        ("applied", "accepted", True),
        ("applied", "unknown", True),
        ("applied", "partial", True),
        ("applied", "failed", False),
        ("applied", "denied", False),
        ("not_applied", "unknown", False),
        ("not_applied", "failed", False),
        ("partial", "ok", False),
        ("duplicated", "ok", False),
        ("mismatched", "ok", False),
        ("unknowable", "ok", False),
    ],
)
def test_what_may_be_said_at_first_sight(verdict: str, outcome: str, at_once: bool) -> None:
    assert may_be_said_at_once(verdict, outcome) is at_once


def test_a_sighting_counts_while_verdict_and_rows_stay_and_keeps_its_first_fence() -> None:
    first = sighted(None, "not_applied", b"rows", [10, 20, 0], ago(3))
    assert (first.count, first.fence, first.first_at) == (1, FENCE, ago(3))
    again = sighted(first, "not_applied", b"rows", [11, 25, 1], ago(2))
    assert (again.count, again.fence, again.first_at) == (2, FENCE, ago(3))
    for verdict, digest in (("applied", b"rows"), ("not_applied", b"other rows")):
        fresh = sighted(again, verdict, digest, [11, 25, 1], ago(1))
        assert (fresh.count, fresh.fence, fresh.first_at) == (1, (11, 25, 1), ago(1))


def test_a_change_settles_by_its_own_first_sighting() -> None:
    change = Sighting("unattributed", b"row", FENCE, ago(31), count=2)
    assert is_change_settled(change, SETTLE, PAST)
    assert not is_change_settled(replace(change, first_at=ago(29)), SETTLE, PAST)
    assert not is_change_settled(replace(change, count=1), SETTLE, PAST)
    assert not is_change_settled(change, SETTLE, replace(PAST, ingested=(10, 19, 0)))
    assert not is_change_settled(change, SETTLE, replace(PAST, producers=[SILENT]))


def test_a_lagging_ingest_makes_nobody_look_lost() -> None:
    """Its beats lie in the log, unread: silence is measured where the log ends for us, not where the clock stands."""
    lagging = replace(PAST, producers=[replace(SILENT, last_at=ago(600))], known_until=ago(590))
    assert not lagging.is_past(FENCE)
    assert not lagging.nobody_acts
    assert replace(lagging, known_until=NOW).is_past(FENCE)


def test_the_horizon_is_the_latest_moment_whose_ends_are_ingested() -> None:
    horizon = Horizon()
    assert horizon.reached([0, 0]) == dt.datetime.min.replace(tzinfo=dt.UTC)
    horizon.note(ago(30), [5, 5])
    horizon.note(ago(20), [6, 9])
    horizon.note(ago(10), [7, 9])
    assert horizon.reached([6, 8]) == ago(30)
    assert horizon.reached([6, 9]) == ago(20)
    assert horizon.reached([0, 0]) == ago(20), "it never goes back"
    assert horizon.reached([7, 9]) == ago(10)


def test_the_horizon_stays_small_while_nothing_is_ingested() -> None:
    horizon = Horizon()
    for second in range(5_000):
        horizon.note(NOW + dt.timedelta(seconds=second), [second])
    assert len(horizon._ahead) <= 256
    assert horizon.reached([5_000]) == NOW + dt.timedelta(seconds=4_999)
