"""Whether a write may be sent again: a yes needs everything, and every other answer says what is missing."""

import datetime as dt
import uuid
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counterfoil_reconcilers.retrying import Known, Twin, beside, may_retry
from counterfoil_reconcilers.settling import IN_FLIGHT

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
ABSENT = Known(
    verdict="not_applied",
    is_settled=True,
    is_current=True,
    attempts=1,
    without_result=0,
    first_at=NOW - dt.timedelta(minutes=5),
    last_at=NOW - dt.timedelta(minutes=5),
    idempotent_for=HOUR,
)
VERDICTS = ["applied", "not_applied", "partial", "duplicated", "mismatched", "unknowable", "another"]
spans = st.timedeltas(dt.timedelta(seconds=-5), dt.timedelta(hours=3))
# What may be sent again, but for some of what that needs.
known_effects = st.fixed_dictionaries(
    {},
    optional={
        "verdict": st.none() | st.sampled_from(VERDICTS),
        "is_settled": st.booleans(),
        "is_current": st.booleans(),
        "attempts": st.integers(1, 3),
        "without_result": st.integers(0, 3),
        "first_at": st.none() | spans.map(lambda span: NOW - span),
        "last_at": spans.map(lambda span: NOW - span),
        "result": st.none() | st.just("{}"),
        "reason": st.none() | st.just("overwritten"),
        "unchecked": st.none() | st.just("the write names no target"),
        "is_irreversible": st.booleans(),
        "idempotent_for": st.none() | st.timedeltas(dt.timedelta(0), dt.timedelta(days=3)),
    },
).map(lambda changed: replace(ABSENT, **changed))  # type: ignore[arg-type]  # each a field of it


@given(known_effects)
@example(ABSENT)
def test_a_yes_needs_everything(known: Known) -> None:
    answer = may_retry(known, NOW)
    assert answer.word in ("yes", "no", "wait")
    assert answer.reason
    assert (answer.until is not None) is (answer.word == "yes")
    assert (answer.ask_again_in is not None) is (answer.word == "wait")
    if answer.word != "yes":
        return
    assert known.verdict == "not_applied"
    assert known.is_settled
    assert known.is_current
    assert known.without_result == 0 or NOW - known.last_at > IN_FLIGHT
    assert known.unchecked is None
    assert not known.is_irreversible
    assert known.first_at is not None
    assert known.idempotent_for is not None
    assert answer.until is not None
    assert NOW < answer.until < known.first_at + known.idempotent_for


@given(spans, spans, st.timedeltas(dt.timedelta(0), dt.timedelta(days=2)))
def test_a_closed_window_stays_closed(age: dt.timedelta, window: dt.timedelta, later: dt.timedelta) -> None:
    known = replace(ABSENT, first_at=NOW - age, idempotent_for=window)
    if may_retry(known, NOW).word == "no":
        assert may_retry(known, NOW + later).word == "no"


@given(known_effects)
def test_what_is_applied_is_never_waited_for(known: Known) -> None:
    answer = may_retry(replace(known, verdict="applied"), NOW)
    assert (answer.word, answer.code, answer.result) == ("no", "applied", known.result)


@pytest.mark.parametrize(
    ("changed", "word", "code", "said"),
    [
        ({}, "yes", "confirmed_absent", "open until 2026-03-01 12:54:00 UTC"),  # less a minute
        ({"idempotent_for": None}, "no", "no_window", "no idempotency window; a person must decide"),
        ({"idempotent_for": dt.timedelta(0)}, "no", "no_window", "a person"),
        ({"idempotent_for": dt.timedelta(minutes=5)}, "no", "window_passed", "has passed; a person"),
        ({"idempotent_for": dt.timedelta(minutes=5, seconds=29)}, "no", "window_passed", "a person"),  # the margin
        ({"idempotent_for": dt.timedelta.max}, "yes", "confirmed_absent", "9999"),
        ({"first_at": None}, "no", "window_passed", "not known any more"),
        ({"is_irreversible": True}, "no", "irreversible", "irreversible; a person"),
        ({"is_settled": False}, "wait", "settling", "not settled yet"),
        ({"verdict": None}, "wait", "settling", "not settled yet"),
        ({"without_result": 1, "last_at": NOW}, "wait", "settling", "still be under way"),
        ({"without_result": 1, "last_at": NOW - HOUR}, "yes", "confirmed_absent", "open until"),
        ({"is_current": False}, "wait", "not_stored", "in a spool"),
        ({"unchecked": "it names no target"}, "no", "unchecked", "it names no target, so the target can't be asked"),
        ({"verdict": "partial"}, "no", "partial", "shows it partial; a person"),
        ({"verdict": "unknowable", "reason": "overwritten"}, "no", "unknowable", "(overwritten); a person"),
        ({"verdict": "of the future"}, "no", "unknowable", "a person"),
    ],
)
def test_every_answer(changed: dict[str, object], word: str, code: str, said: str) -> None:
    answer = may_retry(replace(ABSENT, **changed), NOW)  # type: ignore[arg-type]  # each a field of it
    assert (answer.word, answer.code) == (word, code)
    assert said in answer.reason


def test_what_is_not_stored_is_waited_for() -> None:
    answer = may_retry(None, NOW)
    assert (answer.word, answer.code, answer.is_final) == ("wait", "not_stored", False)
    assert "spool" in answer.reason


def test_what_is_young_is_asked_for_sooner() -> None:
    hints = [
        may_retry(replace(ABSENT, verdict=None, last_at=NOW - age), NOW).ask_again_in
        for age in (dt.timedelta(0), dt.timedelta(seconds=40), HOUR)
    ]
    assert hints == [dt.timedelta(seconds=1), dt.timedelta(seconds=10), dt.timedelta(seconds=60)]


@pytest.mark.parametrize(
    ("twins", "word", "code"),
    [
        ([], "yes", "confirmed_absent"),
        ([("not_applied", True, False)], "yes", "confirmed_absent"),
        ([("not_applied", True, True)], "no", "another_effect"),
        ([("not_applied", False, False)], "wait", "settling"),
        ([(None, False, True)], "wait", "settling"),
        ([("applied", False, False)], "no", "another_effect"),
        ([("not_applied", True, False), ("unknowable", True, False)], "no", "another_effect"),
    ],
)
def test_a_yes_is_none_beside_the_same_write(twins: list[tuple[str | None, bool, bool]], word: str, code: str) -> None:
    others = [Twin(uuid.UUID(int=7), *one) for one in twins]
    answer = beside(may_retry(ABSENT, NOW), others)
    assert (answer.word, answer.code) == (word, code)
    waiting = may_retry(None, NOW)
    assert beside(waiting, others) == waiting
