"""The last state of a target known to be right, against which writes are folded and changes are found.

Only a target that declares its writers has one. An intent that was durable before a row of it was read may be in
that row already, so such a row is no `before` for it (see `Baseline.usable_for`).
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contracts import Resource, Target
from counterfoil_reconcilers.rows import Row, RowKey, Rows
from counterfoil_reconcilers.settling import Sighting
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import EXACT_INTEGERS, at, shown

Fence = tuple[int, ...]


@dataclass(frozen=True)
class Baseline:
    """Rows and since when they hold: intents at or past a row's fence were durable after it was read."""

    first_fence: Fence | None
    rows: Mapping[RowKey, Row | None]
    fences: Mapping[RowKey, Fence]
    candidates: Mapping[RowKey, Sighting]
    unread: frozenset[str] = frozenset()  # resources that the contract came to declare, or declares otherwise, since
    outdated: frozenset[RowKey] = frozenset()  # their rows as they were declared before

    def usable_for(
        self,
        resources: Mapping[str, Resource],
        needed: Iterable[tuple[RowKey, int, int]],
        created: Iterable[tuple[Search, int, int]] = (),
    ) -> Rows:
        """The rows that are a `before` of every write, given as (row, partition and offset of its first intent).

        `created` are rows that writes without a known key look for: one that was there when it was read, and whose
        intent was durable by then, may be what that write created.
        """
        if self.first_fence is None:
            return Rows()
        stale = {key for key, partition, offset in needed if offset < self.fences.get(key, self.first_fence)[partition]}
        tainted = {key.resource for key in stale}
        unsure = {key for key, row in self.rows.items() if row is not None and row.problem}
        unsure |= {key for search, where, offset in created for key in self._made_by(search, where, offset, resources)}
        rows = {key: row for key, row in self.rows.items() if key not in stale and key not in unsure}
        known = (key for key, _, _ in needed if key not in stale and key.resource not in self.unread)
        absent = {key: None for key in known if key not in self.rows}
        return Rows({**rows, **absent}, frozenset(set(resources) - tainted - self.unread), frozenset(unsure))

    def _made_by(
        self, search: Search, partition: int, offset: int, resources: Mapping[str, Resource]
    ) -> Iterator[RowKey]:
        """Rows that hold what a write looked for, and that were read after its intent was durable."""
        for key, row in self.rows.items():
            if key.resource != search.resource or row is None or offset >= self.fences[key][partition]:
                continue
            resource = resources[key.resource]
            if all(agree(resource, value, at(row.doc, (name,)), (name,)) for name, value in search.fields):
                yield key


def read_baseline(store: Connection, tenant: str, target: Target, first_fence: Sequence[int] | None) -> Baseline:
    """The stored baseline of one tenant's rows at one target."""
    unread = {name: mark.doc for name, mark in _marks(target)}
    rows: dict[RowKey, Row | None] = {}
    fences: dict[RowKey, Fence] = {}
    candidates: dict[RowKey, Sighting] = {}
    for found in store.execute(queries("reconcile")["read_baseline"], {"tenant": tenant, "target": target.name}):
        key = RowKey(found["resource"], tuple(json.loads(found["key"])))
        if not key.key:
            if unread.get(key.resource) == json.loads(found["doc"]):
                del unread[key.resource]
            continue
        rows[key] = _row(found["doc"], found["problem"])
        fences[key] = tuple(found["fence"])
        if found["candidate_digest"] is not None:
            candidates[key] = Sighting(
                "unattributed", bytes(found["candidate_digest"]), tuple(found["candidate_fence"]), found["candidate_at"]
            )
    outdated = frozenset(key for key in rows if key.resource in unread)
    kept = {key: row for key, row in rows.items() if key not in outdated}
    first = None if first_fence is None else tuple(first_fence)
    return Baseline(first, kept, fences, candidates, frozenset(unread), outdated)


def set_first_baseline(
    store: Connection, tenant: str, target: Target, old: Baseline, observed: Rows, fence: Sequence[int]
) -> None:
    """The rows of resources without a baseline, as they are now, and what the contract says that a row of theirs is."""
    gone = dict.fromkeys(old.outdated)
    rows = {key: row for key, row in observed.rows.items() if key.resource in old.unread}
    marks = {RowKey(name, ()): mark for name, mark in _marks(target) if name in old.unread}
    set_baseline(store, tenant, target.name, {**gone, **rows, **marks}, fence)


def _marks(target: Target) -> Iterator[tuple[str, Row]]:
    for name, resource in target.resources.items():
        yield name, Row([resource.options.model_dump(mode="json"), list(resource.key), resource.tenant])


def set_baseline(
    store: Connection, tenant: str, target: str, rows: Mapping[RowKey, Row | None], fence: Sequence[int]
) -> None:
    """From now on these rows are the last state known to be right."""
    with store.cursor() as cursor:
        cursor.executemany(
            queries("reconcile")["set_baseline"],
            [
                {
                    **_where(tenant, target, key),
                    "doc": None if row is None else json.dumps(shown(row.doc)),
                    "problem": None if row is None else row.problem,
                    "fence": list(fence),
                }
                for key, row in rows.items()
            ],
        )


def set_candidate(
    store: Connection, tenant: str, target: str, key: RowKey, seen: Sighting, first_fence: Sequence[int]
) -> None:
    """Remember an unexplained state until it settles or goes away."""
    params: dict[str, Any] = {
        **_where(tenant, target, key),
        "digest": seen.digest,
        "fence": list(seen.fence),
        "first_at": seen.first_at,
        "baseline_fence": list(first_fence),
    }
    store.execute(queries("reconcile")["set_candidate"], params)


def clear_candidate(store: Connection, tenant: str, target: str, key: RowKey) -> None:
    """The state is explained, or gone."""
    store.execute(queries("reconcile")["clear_candidate"], _where(tenant, target, key))


def _row(text: str | None, problem: str | None) -> Row | None:
    """A stored row. Its text is our own and in the form of `plain` but for whole numbers, so it is not walked again."""
    if text is None:
        return None
    return Row(json.loads(text, parse_int=_number), problem=problem)


def _number(digits: str) -> float | int:
    number = int(digits)
    return float(number) if abs(number) <= EXACT_INTEGERS else number


def _where(tenant: str, target: str, key: RowKey) -> dict[str, Any]:
    return {"tenant": tenant, "target": target, "resource": key.resource, "key": json.dumps(list(key.key))}


def is_sweep_due(swept_at: dt.datetime | None, every: dt.timedelta, now: dt.datetime) -> bool:
    """Whether all of the target is to be read again."""
    return swept_at is None or now - swept_at >= every
