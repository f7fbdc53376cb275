"""May this write be sent again? Read from the store, and, for a confirmation, asked of the target at once."""

import datetime as dt
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from counterfoil_console.http.lending import Lender
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.reconciler import Reconciler
from counterfoil_reconcilers.retrying import Answer, Known, Twin, beside, may_retry

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
# A log that others write to is never ingested to its very end, but soon to where it ended a moment ago.
_INGEST_SECONDS = 1.0
_INGEST_PAUSE_SECONDS = 0.05
_NO_CLOCK = dt.datetime.min.replace(tzinfo=dt.UTC)  # none bears on what is not stored


@dataclass(frozen=True)
class Question:
    """Of which effect of which tenant; `after` is the event_id of the asker's own intent, if it has one."""

    tenant: str
    effect_id: uuid.UUID
    after: uuid.UUID | None


@dataclass(frozen=True)
class Told:
    """An answer, and the store's clock when it was given; None where nothing of the effect is stored."""

    answer: Answer
    now: dt.datetime | None

    @property
    def is_nowhere(self) -> bool:
        """Whether nothing of the effect is stored."""
        return self.now is None


class Log(Protocol):
    """The events topic, as far as it must be asked."""

    progress_key: Mapping[str, str]

    def ends(self) -> list[int]:
        """The end offsets by partition, now. Raises BrokersAway."""


class Answers:
    """Answers questions, each with a connection of its own. Thread-safe.

    Raises StoreAway, BrokersAway, and psycopg's errors.
    """

    def __init__(
        self,
        contracts: Contracts,
        stores: Lender[Connection],
        reconcilers: Lender[Reconciler],
        log: Log,
        stopping: threading.Event,
    ) -> None:
        self._contracts = contracts
        self._stores = stores
        self._reconcilers = reconcilers
        self._log = log
        self._stopping = stopping

    def read(self, question: Question) -> Told:
        """What the store knows now; nobody is asked."""
        with self._stores.lent() as store:
            return self._read(store, question)

    def confirm(self, question: Question, seconds: float) -> Told:
        """The same, and the target is looked at until the answer is final or the time is up."""
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE_SECONDS
        answers = True
        while True:
            told = self.read(question)
            # What is not stored can't be looked at; a target that gave no answer is not asked more often by us.
            if not told.answer.is_final and told.answer.code != "not_stored" and answers:
                answers = self._look(question)
                told = self.read(question)
            left = deadline - time.monotonic()
            if told.answer.is_final or left <= 0 or self._stopping.wait(min(pause, left)):
                return told
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)

    def _look(self, question: Question) -> bool:
        with self._reconcilers.lent() as reconciler:
            return not reconciler.look(question.tenant, question.effect_id).skipped

    def _read(self, store: Connection, question: Question) -> Told:
        row = self._row(store, question)
        if row is None:
            return Told(may_retry(None, _NO_CLOCK), None)
        told = self._told(row, is_current=bool(row["has_after"]))
        if told.answer.word != "yes":
            return told
        # Another attempt may be in the log and not stored yet: before a yes, all that was there when it was asked for.
        if not self._is_ingested(store, row["intent_partition"]):
            return self._told(row, is_current=False)
        again = self._row(store, question) or row
        told = self._told(again, is_current=bool(again["has_after"]))
        return Told(beside(told.answer, self._twins(store, question, again)), told.now)

    def _twins(self, store: Connection, question: Question, row: Mapping[str, Any]) -> list[Twin]:
        """Other effects that the contract says are the same write."""
        tool = self._contracts.tools.get(row["tool"])
        if tool is None or tool.identity is None:
            return []
        params = {"tenant": question.tenant, "effect_id": question.effect_id, "identity": list(tool.identity)}
        found = store.execute(queries("http")["read_twins"], params).fetchall()
        return [Twin(one["effect_id"], *_in_force(one), is_later=one["is_later"]) for one in found]

    def _row(self, store: Connection, question: Question) -> dict[str, Any] | None:
        params = {"tenant": question.tenant, "effect_id": question.effect_id, "after": question.after}
        return store.execute(queries("http")["read_retry"], params).fetchone()

    def _is_ingested(self, store: Connection, partition: int) -> bool:
        """Whether the partition is ingested, soon, up to where it ends now."""
        end = self._log.ends()[partition]
        params = {**self._log.progress_key, "partition": partition}
        deadline = time.monotonic() + _INGEST_SECONDS
        while True:
            row = store.execute(queries("http")["read_ingested"], params).fetchone()
            if end == 0 or (row is not None and row["next_offset"] >= end):
                return True
            if time.monotonic() >= deadline or self._stopping.wait(_INGEST_PAUSE_SECONDS):
                return False

    def _told(self, row: Mapping[str, Any], *, is_current: bool) -> Told:
        return Told(may_retry(known_of(row, self._contracts, is_current=is_current), row["now"]), row["now"])


def known_of(row: Mapping[str, Any], contracts: Contracts, *, is_current: bool) -> Known:
    """A row of `read_retry`, under the contracts as they are now."""
    target = contracts.targets.get(row["target"] or "")
    tool = contracts.tools.get(row["tool"] or "")
    verdict, settled = _in_force(row)
    return Known(
        verdict=verdict,
        is_settled=settled,
        is_current=is_current,
        attempts=row["intents"],
        without_result=row["without_result"],
        first_at=_first_at(row),
        last_at=row["last_appended_at"],
        result=row["reply"],
        reason=row["verdict_reason"] if row["verdict"] == verdict else None,
        unchecked=_unchecked(row, contracts),
        is_irreversible=tool is not None and tool.irreversible,
        idempotent_for=None if target is None else target.capabilities.idempotent_for,
    )


def _in_force(row: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The verdict said last, and whether it stands. While the store has another one, an absence does not."""
    emitted, folded = row["emitted"], row["verdict"]
    if emitted is None:
        return folded, False
    said = emitted.partition(":")[0]
    return said, bool(row["is_settled"]) and (said != "not_applied" or folded in (None, said))


def _first_at(row: Mapping[str, Any]) -> dt.datetime | None:
    """By the brokers' clock, or by the agent's where that is earlier.

    An intent may have waited in a spool while its write was done, so that the brokers got it late; an agent's clock
    that is wrong can only make the window shorter here.
    """
    first_at: dt.datetime | None = row["first_at"]
    begun_at: dt.datetime = row["intent_at"]
    return None if first_at is None else min(first_at, begun_at)


def _unchecked(row: Mapping[str, Any], contracts: Contracts) -> str | None:
    if row["target"] is None:
        return "the write names no target"
    if row["mode"] != "live":
        return f"the write was made in mode {row['mode']}"
    if row["target"] not in contracts.targets:
        return "the contracts do not have the write's target"
    if row["has_own_expectation"]:
        return None
    declared = contracts.tools.get(row["tool"])
    if declared is None or declared.target != row["target"]:
        return "the contracts do not have the write's tool at that target"
    return None
