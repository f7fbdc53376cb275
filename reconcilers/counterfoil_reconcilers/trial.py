"""Judges one effect now, with all that share rows with it, and writes nothing: no lease, no state, no verdict.

Sightings, settling and how far the log is ingested do not enter: this is what one look at this moment would say.
"""

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil.blobs import BlobReader
from counterfoil.errors import CounterfoilError
from counterfoil.redaction import Redaction
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import Baseline, read_baseline
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.judge import Unattributed, Verdict, judge
from counterfoil_reconcilers.looking import look
from counterfoil_reconcilers.recorded import before_of, effect_of, opened
from counterfoil_reconcilers.rows import NOT_READ, Effect, Rows
from counterfoil_reconcilers.targets.port import Target
from counterfoil_reconcilers.touched import connected

_MOST_BESIDE = 500
_AFTER_ALL = 2**62  # an offset behind every end of a log


class NoSuchEffect(CounterfoilError):
    """The store has no such effect, or none that can be held against a target."""


@dataclass(frozen=True)
class Judged:
    """An effect with what was made of it now. `row` is what the store has of it, with the verdict in force."""

    row: Mapping[str, Any]
    effect: Effect
    verdict: Verdict


@dataclass(frozen=True)
class Trial:
    """What one look says of an effect, and of `others` that share rows with it. No effect explains `changes`.

    `knows_before`: whether the rows that it writes were known before it, from a baseline.
    """

    about: Judged
    others: tuple[Judged, ...]
    changes: tuple[Unattributed, ...]
    knows_before: bool


@dataclass(frozen=True)
class Bench:
    """Where effects are tried: the store, read only; the contracts; one tenant at one target, and its adapter."""

    store: Connection
    contracts: Contracts
    adapter: Target
    tenant: str
    target: str
    redaction: Redaction
    blobs: BlobReader

    def try_effect(self, effect_id: uuid.UUID) -> Trial:
        """One look at a recorded effect.

        Raises NoSuchEffect, TargetUnavailable.
        """
        found = self._find(effect_id)
        index = next((i for i, row in enumerate(found) if row["effect_id"] == effect_id), None)
        if index is None:
            raise NoSuchEffect(
                f"the store has no live write {effect_id.hex} of {self.tenant} at {self.target}; "
                "see `counterfoil timeline` for the ids of a task's writes"
            )
        return self._try(found, index)

    def try_call(self, tool: str, args: Mapping[str, Any], reply: Any, outcome: str) -> Trial:
        """One look at a call that was never recorded, as if it were the latest.

        Raises TargetUnavailable.
        """
        row = {
            "effect_id": uuid.uuid4(), "tool": tool, "args": args, "reply": reply, "outcome": outcome, "intents": 1,
            "step": None, "redaction": None, "intent_at": dt.datetime.now(dt.UTC), "intent_partition": 0,
            "intent_offset": _AFTER_ALL, "verdict": None, "closed_at": None,
        }  # fmt: skip
        found = self._find(row["effect_id"])
        return self._try([*found, row], len(found))

    def _find(self, effect_id: uuid.UUID | Any) -> list[dict[str, Any]]:
        where = {"tenant": self.tenant, "target": self.target, "effect_id": effect_id, "limit": _MOST_BESIDE}
        return self.store.execute(queries("reconcile")["find_effects_beside"], where).fetchall()

    def _baseline(self) -> Baseline:
        declared = self.contracts.targets[self.target]
        where = {"tenant": self.tenant, "target": self.target}
        row = self.store.execute(queries("reconcile")["read_first_fence"], where).fetchone()
        first = row["baseline_fence"] if row is not None and declared.writers is not None else None
        return read_baseline(self.store, self.tenant, declared, first)

    def _try(self, found: Sequence[Mapping[str, Any]], index: int) -> Trial:
        declared = self.contracts.targets[self.target]
        full = [opened(row, self.tenant, self.target, self.blobs) for row in found]
        baseline = self._baseline()
        disclosure = Disclosure(self.redaction.of_task(self.tenant, self.target))
        noted = [effect_of(row, self.tenant, disclosure) for row in full]
        disclosure.learn(baseline.rows.values())
        observed, touched, effects = look(
            self.adapter, self.contracts, declared, disclosure, noted, Rows(baseline.rows)
        )
        before = before_of(baseline, declared, full, touched)
        judgement = judge(self.contracts, self.target, effects, before, observed, disclosure)
        group = next(group for group in connected(touched) if index in group)
        judged = {i: Judged(full[i], effects[i], judgement.verdicts[i]) for i in group}
        rows = touched[index].writes | judgement.group_rows[index]
        return Trial(
            about=judged[index],
            others=tuple(judged[i] for i in sorted(group, key=lambda i: effects[i].order) if i != index),
            changes=tuple(change for change in judgement.unattributed if change.row in rows),
            knows_before=all(before.get(key) is not NOT_READ for key in touched[index].writes),
        )
