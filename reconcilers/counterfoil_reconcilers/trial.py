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
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.forgetting import unless_forgotten
from counterfoil_reconcilers.judge import Unattributed, Verdict
from counterfoil_reconcilers.observing import Observer
from counterfoil_reconcilers.rows import NOT_READ, Effect
from counterfoil_reconcilers.targets.port import Target
from counterfoil_reconcilers.touched import connected
from counterfoil_reconcilers.worklist import Worklist

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
        found = self._worklist().beside(effect_id, _MOST_BESIDE)
        if all(row["effect_id"] != effect_id for row in found):
            raise NoSuchEffect(
                f"the store has no live write {effect_id.hex} of {self.tenant} at {self.target}; "
                "see `counterfoil timeline` for the ids of a task's writes"
            )
        return self._try(found, effect_id)

    def try_call(self, tool: str, args: Mapping[str, Any], reply: Any, outcome: str) -> Trial:
        """One look at a call that was never recorded, as if it were the latest.

        Raises TargetUnavailable.
        """
        row = {
            "effect_id": uuid.uuid4(), "tool": tool, "args": args, "expect": None, "reply": reply, "outcome": outcome,
            "intents": 1, "step": None, "redaction": None, "intent_at": dt.datetime.now(dt.UTC), "intent_partition": 0,
            "intent_offset": _AFTER_ALL, "verdict": None, "closed_at": None,
        }  # fmt: skip
        return self._try([row], uuid.UUID(str(row["effect_id"])))

    def _worklist(self) -> Worklist:
        return Worklist(self.store, self.tenant, self.target, check_seq=0)

    def _observer(self) -> Observer:
        declared = self.contracts.targets[self.target]
        where = {"tenant": self.tenant, "target": self.target}
        row = self.store.execute(queries("reconcile")["read_first_fence"], where).fetchone()
        fence = row["baseline_fence"] if row is not None and declared.writers is not None else None
        return Observer(
            store=self.store,
            contracts=self.contracts,
            declared=declared,
            adapter=self.adapter,
            tenant=self.tenant,
            first_fence=None if fence is None else tuple(fence),
            blobs=self.blobs,
            redaction=self.redaction,
            go_on=lambda: None,
        )

    def _try(self, found: Sequence[Mapping[str, Any]], effect_id: uuid.UUID) -> Trial:
        observer = self._observer()
        observer.note(found)
        worklist = self._worklist()
        observer.note(worklist.unmarked(observer.effect_ids, _MOST_BESIDE))  # they may share rows, too
        observer.look_with_connected(worklist, {})
        seen = observer.seen()
        index = next(i for i, row in enumerate(seen.found) if row["effect_id"] == effect_id)
        judged_now = seen.judged(self.contracts, self.contracts.targets[self.target])
        judgement = unless_forgotten(judged_now, self.adapter, seen.found, seen.touched)
        before = seen.before(self.contracts.targets[self.target])
        group = next(group for group in connected(seen.touched) if index in group)
        judged = {i: Judged(seen.found[i], seen.effects[i], judgement.verdicts[i]) for i in group}
        rows = seen.touched[index].writes | judgement.group_rows[index]
        return Trial(
            about=judged[index],
            others=tuple(judged[i] for i in sorted(group, key=lambda i: seen.effects[i].order) if i != index),
            changes=tuple(change for change in judgement.unattributed if change.row in rows),
            knows_before=all(before.get(key) is not NOT_READ for key in seen.touched[index].writes),
        )
