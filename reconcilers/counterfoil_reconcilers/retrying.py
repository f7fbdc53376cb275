"""Whether a write may be sent again. Pure: what the store knows of its effect and `now` in, an answer out.

A write is re-sent only after the target was asked and while its idempotency window holds (DESIGN.md, promise 7), so
whatever is not known is never a yes.
"""

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from counterfoil_reconcilers.settling import IN_FLIGHT

Word = Literal["yes", "no", "wait"]
Code = Literal[
    "confirmed_absent",
    "applied",
    "partial",
    "duplicated",
    "mismatched",
    "unknowable",
    "window_passed",
    "no_window",
    "irreversible",
    "unchecked",
    "another_effect",
    "not_stored",
    "settling",
]

# What is kept back of a window: sending takes its time, and the brokers' clock is not the store's.
_MARGIN_SHARE = 0.1
_LEAST_MARGIN = dt.timedelta(seconds=2)
_MOST_MARGIN = dt.timedelta(seconds=60)
_A_MOMENT = dt.timedelta(seconds=1)
_PERSON = "a person must decide"


@dataclass(frozen=True)
class Known:
    """What the store knows of an effect.

    `verdict` is the one in force. `is_settled`: no attempt or result was stored since it settled. `is_current`: the
    asker's own attempt is stored, and the log is ingested up to where it ended when the question was asked.
    `first_at`: when the first attempt began, never later than it did; None where that is not known any more. `last_at`:
    when an attempt or result last reached the brokers. `unchecked`: why no reconciler looks at it. `result`: JSON.
    """

    verdict: str | None
    is_settled: bool
    is_current: bool
    attempts: int
    without_result: int
    first_at: dt.datetime | None
    last_at: dt.datetime
    result: str | None = None
    reason: str | None = None
    unchecked: str | None = None
    is_irreversible: bool = False
    idempotent_for: dt.timedelta | None = None


@dataclass(frozen=True)
class Twin:
    """Another effect of the same task that the contract's `identity` says is the same write.

    `verdict` and `is_settled` as of Known; `is_later`: it was begun after the one that was asked about.
    """

    effect_id: uuid.UUID
    verdict: str | None
    is_settled: bool
    is_later: bool


@dataclass(frozen=True)
class Answer:
    """May it be sent again: `yes` until `until`; `no`; or `wait`, and ask again after `ask_again_in`.

    `reason` is a sentence for people, `code` says the same to programs. `result`, JSON text, is what an attempt was
    told of one that is applied, if any was told something.
    """

    word: Word
    code: Code
    reason: str
    result: str | None = None
    until: dt.datetime | None = None
    ask_again_in: dt.timedelta | None = None

    @property
    def is_final(self) -> bool:
        """Whether asking again in a moment would change nothing."""
        return self.word != "wait"


def may_retry(known: Known | None, now: dt.datetime) -> Answer:
    """The answer about an effect; `known` None: nothing of it is stored. `now` by the store's clock."""
    if known is None:
        reason = "no such effect is stored: it may wait in a spool, or not be ingested yet"
        return Answer("wait", "not_stored", reason, ask_again_in=_A_MOMENT)
    if known.verdict == "applied":
        return Answer("no", "applied", "the target has it already", result=known.result)
    if known.unchecked is not None:
        return Answer("no", "unchecked", f"{known.unchecked}, so the target can't be asked; {_PERSON}")
    if not known.is_current:
        reason = "the latest attempt is not stored yet: it may wait in a spool, or not be ingested"
        return Answer("wait", "not_stored", reason, ask_again_in=_A_MOMENT)
    if known.verdict is None or not known.is_settled or _is_under_way(known, now):
        return _settling(known, now)
    if known.verdict == "not_applied":
        return _absent(known, now)
    return _unclear(known.verdict, known.reason)


def beside(answer: Answer, twins: Iterable[Twin]) -> Answer:
    """The answer in view of other effects that are the same write: a yes would do it twice where one of them landed.

    Of several that are absent the latest alone may be sent again, for each has a key of its own.
    """
    if answer.word != "yes":
        return answer
    for twin in twins:
        same = f"effect {twin.effect_id.hex} of this task is the same write by the contract's identity"
        if twin.verdict == "not_applied" and twin.is_settled:
            if twin.is_later:
                return Answer("no", "another_effect", f"{same}, and was begun later: send that one again")
        elif twin.verdict is None or twin.verdict == "not_applied":
            return Answer("wait", "settling", f"{same}, and has not settled yet", ask_again_in=_A_MOMENT)
        else:
            return Answer("no", "another_effect", f"{same}, and the target shows it {twin.verdict}; {_PERSON}")
    return answer


def _settling(known: Known, now: dt.datetime) -> Answer:
    if known.without_result > 0 and _is_under_way(known, now):
        reason = "an attempt has no result yet, and may still be under way"
    else:
        reason = "what the target shows has not settled yet"
    # As reconcilers do: what is young is asked for sooner.
    pause = min(max((now - known.last_at) / 4, _A_MOMENT), dt.timedelta(seconds=60))
    return Answer("wait", "settling", reason, ask_again_in=pause)


def _is_under_way(known: Known, now: dt.datetime) -> bool:
    """Whether an attempt may yet write. One that says nothing for so long has ended without a word."""
    return known.without_result > 0 and now - known.last_at <= IN_FLIGHT


def _unclear(verdict: str, reason: str | None) -> Answer:
    why = "" if reason is None else f" ({reason})"
    for code in ("partial", "duplicated", "mismatched"):
        if verdict == code:
            return Answer("no", code, f"the target shows it {code}{why}; {_PERSON}")
    return Answer("no", "unknowable", f"what became of it can't be known{why}; {_PERSON}")


def _absent(known: Known, now: dt.datetime) -> Answer:
    if known.is_irreversible:
        return Answer("no", "irreversible", f"the target does not have it, and its tool is irreversible; {_PERSON}")
    window = known.idempotent_for
    if not window:
        return Answer("no", "no_window", f"the target does not have it, and declares no idempotency window; {_PERSON}")
    until = None if known.first_at is None else _end_of(known.first_at, window)
    if until is None:
        reason = f"the target does not have it, and when it was first tried is not known any more; {_PERSON}"
        return Answer("no", "window_passed", reason)
    if now >= until:
        return Answer("no", "window_passed", f"the target does not have it, and its window has passed; {_PERSON}")
    reason = f"the target was asked and does not have it; its window is open until {until:%Y-%m-%d %H:%M:%S} UTC"
    return Answer("yes", "confirmed_absent", reason, until=until)


def _end_of(first_at: dt.datetime, window: dt.timedelta) -> dt.datetime:
    """The end of the window less its margin; the end of time where it has none."""
    margin = min(max(window * _MARGIN_SHARE, _LEAST_MARGIN), _MOST_MARGIN)
    try:
        return first_at + window - margin
    except OverflowError:
        return dt.datetime.max.replace(tzinfo=dt.UTC)
