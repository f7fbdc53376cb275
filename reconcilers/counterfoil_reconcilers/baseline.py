"""The last state of a target known to be right, against which writes are folded and changes are found.

Only a target that declares its writers has one. An intent that was durable before a row of it was read may be in
that row already, so such a row is no `before` for it (see `Baseline.usable_for`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from counterfoil_consumers.binary_copy import byteas, texts
from counterfoil_consumers.store import Connection, arrays_text, queries
from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contracts import Resource, Target
from counterfoil_reconcilers.rows import Row, RowKey, Rows
from counterfoil_reconcilers.settling import Sighting
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import EXACT_INTEGERS, at, canonical
from counterfoil_reconcilers.world import candidates

Fence = tuple[int, ...]


@dataclass(frozen=True)
class Baseline:
    """Rows and since when they hold: intents at or past a row's fence were durable after it was read.

    `asked` are the rows that were looked up in it; of these, what is not in `rows` did not exist.
    """

    first_fence: Fence | None
    rows: Mapping[RowKey, Row | None]
    fences: Mapping[RowKey, Fence]
    unread: frozenset[str] = frozenset()  # resources that the contract came to declare, or declares otherwise, since
    asked: AbstractSet[RowKey] = frozenset()

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
        needed = tuple(needed)
        stale = {key for key, partition, offset in needed if offset < self.fences.get(key, self.first_fence)[partition]}
        tainted = {key.resource for key in stale}
        unsure = {key for key, row in self.rows.items() if row is not None and row.problem}
        there = Rows(self.rows)
        unsure |= {
            key
            for search, where, offset in created
            for key in self._made_by(search, there, where, offset, resources[search.resource])
        }
        rows = {key: row for key, row in self.rows.items() if key not in stale and key not in unsure}
        known = {key for key, _, _ in needed if key not in stale}
        known |= {key for key in self.asked if key.resource not in tainted}
        absent = {key: None for key in known if key not in self.rows and key.resource not in self.unread}
        return Rows({**rows, **absent})

    def _made_by(
        self, search: Search, there: Rows, partition: int, offset: int, resource: Resource
    ) -> Iterator[RowKey]:
        """Rows that hold what a write looked for, and that were read after its intent was durable."""
        fields = dict(search.fields)
        for key, row in candidates(resource, there, fields, fields):
            if offset >= self.fences[key][partition]:
                continue
            if all(agree(resource, value, at(row.doc, (name,)), (name,)) for name, value in search.fields):
                yield key


class Past:
    """The baseline of one tenant's rows at one target, read as far as it is asked for.

    Without `first_fence` there is none: all of it was not read yet, or never will be.
    """

    def __init__(self, store: Connection, tenant: str, target: Target, first_fence: Fence | None) -> None:
        self._store = store
        self._where = {"tenant": tenant, "target": target.name}
        self._first_fence = first_fence
        self._rows: dict[RowKey, Row | None] = {}
        self._fences: dict[RowKey, Fence] = {}
        self._asked: set[RowKey] = set()
        self._unread = self._not_read_yet(target)

    def load(self, keys: Iterable[RowKey]) -> list[Row | None]:
        """Look these up, if they were not before; returns those that are new."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._asked and key.key[:1] != ("?",)]
        if self._first_fence is None or not wanted:
            return []
        self._asked.update(wanted)
        new: list[Row | None] = []
        for found in self._read(wanted):
            key = RowKey(found["resource"], tuple(json.loads(found["key"])))
            if key.resource not in self._unread:
                self._rows[key] = _row(found["doc"], found["problem"])
                self._fences[key] = tuple(found["fence"])
                new.append(self._rows[key])
        return new

    @property
    def rows(self) -> Rows:
        """What was found so far."""
        return Rows(self._rows)

    @property
    def baseline(self) -> Baseline:
        """What was found so far, and what that is worth. It grows with what is asked for later."""
        return Baseline(self._first_fence, self._rows, self._fences, self._unread, self._asked)

    def _read(self, keys: Iterable[RowKey]) -> Iterable[Mapping[str, Any]]:
        wanted = [(key.resource, key.text) for key in keys]
        named = {"resources": texts(name for name, _ in wanted), "keys": texts(key for _, key in wanted)}
        params = {**self._where, **named}
        return self._store.execute(queries("reconcile")["read_baseline"], params)

    def _not_read_yet(self, target: Target) -> frozenset[str]:
        """Resources of which no baseline was taken as the contract declares them now."""
        marks = {name: mark.doc for name, mark in marks_of_declarations(target)}
        for found in self._read(RowKey(name, ()) for name in marks):
            if marks.get(found["resource"]) == json.loads(found["doc"]):
                del marks[found["resource"]]
        return frozenset(marks)


def marks_of_declarations(target: Target) -> Iterator[tuple[str, Row]]:
    """What the contract says that a row of each resource is, kept beside the rows; how it tells changes apart."""
    for name, resource in target.resources.items():
        options = resource.options.model_dump(mode="json")
        if resource.changes is not None or options.get("changes") is None:
            options.pop("changes", None)
        yield name, Row([options, list(resource.key), resource.tenant])


def read_candidates(store: Connection, tenant: str, target: str) -> dict[RowKey, Sighting]:
    """Unexplained states that were seen once and wait to settle, and what open effects explain so far."""
    found = store.execute(queries("reconcile")["read_candidates"], {"tenant": tenant, "target": target})
    return {
        RowKey(row["resource"], tuple(json.loads(row["key"]))): Sighting(
            "unattributed", bytes(row["candidate_digest"]), tuple(row["candidate_fence"]), row["candidate_at"]
        )
        for row in found
    }


def digest_of_row(row: Row | None) -> bytes | None:
    """SHA-256 of what a row holds, whatever its version; None where there is none."""
    if row is None:
        return None
    return hashlib.sha256(row.text.encode("utf-8", "surrogatepass")).digest()


def set_baseline(
    store: Connection, tenant: str, target: str, rows: Iterable[tuple[RowKey, Row | None, Sequence[int]]]
) -> None:
    """From now on these rows are the last state known to be right, each since its fence."""
    last = {key: (row, fence) for key, row, fence in rows}
    if not last:
        return
    params = {
        "tenant": tenant,
        "target": target,
        "resources": texts(key.resource for key in last),
        "keys": texts(key.text for key in last),
        "docs": texts(_stored(row) for row, _ in last.values()),
        "problems": texts(None if row is None else row.problem for row, _ in last.values()),
        "digests": byteas(digest_of_row(row) for row, _ in last.values()),
        "fences": texts(arrays_text(fence for _, fence in last.values())),
    }
    store.execute(queries("reconcile")["set_baseline"], params)


def set_candidates(
    store: Connection, tenant: str, target: str, seen: Mapping[RowKey, Sighting], first_fence: Sequence[int]
) -> None:
    """Remember unexplained states until they settle or go away."""
    if not seen:
        return
    params: dict[str, Any] = {
        "tenant": tenant,
        "target": target,
        "resources": texts(key.resource for key in seen),
        "keys": texts(key.text for key in seen),
        "digests": byteas(one.digest for one in seen.values()),
        "fences": texts(arrays_text(one.fence for one in seen.values())),
        "first_ats": [one.first_at for one in seen.values()],
        "baseline_fence": list(first_fence),
    }
    store.execute(queries("reconcile")["set_candidates"], params)


def clear_candidate(store: Connection, tenant: str, target: str, key: RowKey) -> None:
    """The state is explained, or gone."""
    store.execute(queries("reconcile")["clear_candidate"], _where(tenant, target, key))


def _stored(row: Row | None) -> str | None:
    if row is None:
        return None
    return canonical(row.doc) if row.problem else row.text


def _row(text: str | None, problem: str | None) -> Row | None:
    """A stored row. Its text is our own and in the form of `plain` but for whole numbers, so it is not walked again."""
    if text is None:
        return None
    return Row(_decoded(text), problem=problem)


def _number(digits: str) -> float | int:
    number = int(digits)
    return float(number) if abs(number) <= EXACT_INTEGERS else number


_decoded = json.JSONDecoder(parse_int=_number).decode


def _where(tenant: str, target: str, key: RowKey) -> dict[str, Any]:
    return {"tenant": tenant, "target": target, "resource": key.resource, "key": key.text}
