"""The half of a pass that only reads: effects as the store has them, the rows they touch, and what was there before."""

import datetime as dt
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from counterfoil.blobs import BlobReader
from counterfoil.redaction import Redaction
from counterfoil_consumers.store import Connection
from counterfoil_reconcilers.baseline import Baseline, Past
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.judge import Judgement, judge
from counterfoil_reconcilers.looking import Looker, touched_at
from counterfoil_reconcilers.marks import Marks, Place, searched_in_several_ways
from counterfoil_reconcilers.recorded import before_of, claim_of, effect_of, opened
from counterfoil_reconcilers.rows import Effect, Row, RowKey, Rows
from counterfoil_reconcilers.targets.port import Target
from counterfoil_reconcilers.touched import Touched
from counterfoil_reconcilers.worklist import Found, Worklist

logger = logging.getLogger("counterfoil.reconcile")

_TEXT_ON_ITS_WAY = dt.timedelta(hours=1)  # from an agent's disk to the blob store
_MOST_CONNECTED = 10_000
_MOST_UNMARKED = 500
_MOST_BLIND = 50  # effects that may have changed anything: one of them holds back what would be unattributed
ChangedRows = Mapping[RowKey, Row | None]  # as they are now, None for those that are gone


class TooManyConnected(Exception):
    """More open effects share rows than can be held at a time."""


@dataclass(frozen=True)
class Seen:
    """Effects with all that bears on them. `found` are the store's rows on them; all sequences are in one order."""

    tenant: str
    found: Sequence[Found]
    effects: Sequence[Effect]
    touched: Sequence[Touched]
    marks: Sequence[Marks]
    baseline: Baseline
    observed: Rows
    disclosure: Disclosure

    def before(self, declared: Declared) -> Rows:
        """Those rows of the baseline that were there before the effects that touch them."""
        return before_of(self.baseline, declared, self.found, self.touched)

    def judged(self, contracts: Contracts, declared: Declared) -> Judgement:
        """What became of the effects."""
        before = self.before(declared)
        return judge(contracts, declared.name, self.effects, before, self.observed, self.disclosure, self.touched)


class Observer:
    """Looks at one target for one tenant's effects. Make a new one for each look; `go_on` is called in between."""

    def __init__(
        self,
        *,
        store: Connection,
        contracts: Contracts,
        declared: Declared,
        adapter: Target,
        tenant: str,
        first_fence: tuple[int, ...] | None,
        blobs: BlobReader,
        redaction: Redaction,
        go_on: Callable[[], object],
    ) -> None:
        self._contracts = contracts
        self._declared = declared
        self._tenant = tenant
        self._blobs = blobs
        self._disclosure = Disclosure(redaction.of_task(tenant, declared.name))
        self._place = Place(tenant, declared.name, searched_in_several_ways(contracts, declared.name))
        self._past = Past(store, tenant, declared, first_fence)
        self._go_on = go_on
        self._looker = Looker(adapter, contracts, declared, self._disclosure, self._past, go_on)
        self._found: list[Found] = []
        self._noted: list[Effect] = []
        self._effects: list[Effect] = []
        self._touched: list[Touched] = []
        self._marks: list[Marks] = []

    @property
    def past(self) -> Past:
        """The rows as they were before."""
        return self._past

    @property
    def unread(self) -> frozenset[str]:
        """Resources without a baseline as they are declared now."""
        return self._past.baseline.unread

    @property
    def effect_ids(self) -> list[uuid.UUID]:
        """Of the effects noted."""
        return [row["effect_id"] for row in self._found]

    def note(self, found: Iterable[Found]) -> None:
        """Take effects in; what was redacted in them is looked for from now on.

        Raises TargetUnavailable where their texts can't be had now.
        """
        for row in found:
            full = opened(row, self._tenant, self._declared.name, self._blobs)
            self._found.append(full)
            self._noted.append(effect_of(full, self._tenant, self._disclosure))

    def learn(self, rows: Iterable[Row | None]) -> None:
        """Try rows that were read for what was redacted."""
        self._disclosure.learn(rows)

    def add_changed(self, rows: ChangedRows) -> None:
        """Take in rows that a sweep found to be otherwise than the baseline."""
        self._looker.add(rows)

    def look(self) -> None:
        """Read what the effects that were noted since the last look touch.

        Raises TargetUnavailable.
        """
        new = slice(len(self._effects), None)
        effects, touched = self._looker.look(self._noted[new])
        self._effects += effects
        self._touched += touched
        self._marks += self._marks_of(self._found[new], touched)

    def survey(self) -> list[Marks]:
        """The marks of the effects noted, without a look at more rows than that takes.

        Raises TargetUnavailable.
        """
        return self._marks_of(self._found, self._looker.survey(self._noted))

    def _marks_of(self, found: Sequence[Found], touched: Sequence[Touched]) -> list[Marks]:
        return [
            self._place.marks_of(
                one,
                may_have_landed=row["outcome"] not in ("failed", "denied"),
                has_own_expectation=row["expect"] is not None,
            )
            for row, one in zip(found, touched, strict=True)
        ]

    def look_with_connected(self, worklist: Worklist, changed: ChangedRows) -> None:
        """Look for the noted effects, and for all others that share a row with them or may be what changed these rows.

        Raises TargetUnavailable, and TooManyConnected.
        """
        place = self._place
        self.note(worklist.connected(place.blinds(changed), self.effect_ids, _MOST_BLIND) if changed else ())
        asked: set[int] = set()
        seeks = set(place.changed(changed))
        while True:
            self.look()
            seeks |= {mark for one in self._marks for mark in one.seeks}
            seeks |= {place.row(key) for key in self._looker.rows.rows}
            more = worklist.connected(seeks - asked, self.effect_ids, _MOST_CONNECTED) if seeks - asked else []
            if len(more) + len(self._found) > _MOST_CONNECTED:
                raise TooManyConnected
            asked |= seeks
            if not more:
                return
            self._go_on()
            self.note(more)

    def seen(self) -> Seen:
        """All of it, in the order of the intents."""
        order = sorted(range(len(self._found)), key=lambda i: _place_of(self._found[i]))
        effects = [self._disclosure.opened(self._noted[i]) for i in order]
        touched = [
            # What was redacted may have been found in rows that were read later.
            touched_at(self._contracts, self._declared, effect, self._past.rows, self._looker.rows)
            if effect.secret
            else self._touched[i]
            for i, effect in zip(order, effects, strict=True)
        ]
        return Seen(
            self._tenant,
            [self._found[i] for i in order],
            effects,
            touched,
            [self._marks[i] for i in order],
            self._past.baseline,
            self._looker.rows,
            self._disclosure,
        )


def mark_all(
    worklist: Worklist, new_observer: Callable[[], Observer], besides: Observer, go_on: Callable[[], object]
) -> None:
    """Find out what effects touch that nobody has looked at yet, so that none which shares a row is overlooked.

    `go_on` is called in between. Raises TargetUnavailable.
    """
    ids: list[uuid.UUID] = besides.effect_ids
    while found := worklist.unmarked(ids, _MOST_UNMARKED):
        observer = new_observer()
        observer.note(found)
        ids += worklist.set_marks(found, observer.survey())  # one that is told of meanwhile: for the next pass
        go_on()


def settle_window(contracts: Contracts, declared: Declared, row: Found) -> dt.timedelta:
    """How long after an effect's last event its absence still proves nothing."""
    known = contracts.tools.get(row["tool"])
    own = None if known is None else known.settle_seconds
    window = dt.timedelta(seconds=declared.settle_seconds if own is None else own)
    window += declared.capabilities.read_lag
    return window if claim_of(row["args"]) is None else max(window, _TEXT_ON_ITS_WAY)


def accepted_until(contracts: Contracts, row: Found) -> dt.datetime | None:
    """By when the target has applied what it took; None where nobody says so.

    The contract's window is counted by the brokers' clock, an agent's deadline was set by its own.
    """
    known = contracts.tools.get(row["tool"])
    within = None if known is None else known.accepted_within_seconds
    if within is None or row["outcome"] != "accepted":
        agent_s: dt.datetime | None = row["accept_deadline"]
        return agent_s
    last_at: dt.datetime = row["last_appended_at"]
    return last_at + dt.timedelta(seconds=within)


def _place_of(row: Found) -> tuple[int, int]:
    return row["intent_partition"], row["intent_offset"]
