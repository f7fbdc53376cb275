"""Reads what changed at a target, and keeps only what differs from the baseline: memory goes by changes, not by rows.

Where a resource tells what changed, that is read, and the rows that wait for another look; else, and now and then all
the same, every row. Of each row there is its hash in the store; of those that a listing showed, eight bytes here, to
tell which are gone.
"""

import datetime as dt
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import digest_of_row
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.looking import by_key, read_rows, tenant_at
from counterfoil_reconcilers.positions import Position, beginning, kept, lateness, newest, read_positions
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.port import Target, TargetRow, Watched

_CHUNK, _READ_AT_A_TIME = 2_000, 500
Chunk = dict[RowKey, Row | None]


@dataclass
class Sweep:
    """What a sweep found: rows that are not as the baseline has them, None for those that are gone.

    `positions`: where changes stood, for the sweeps to come. `is_full`: every row was listed. `saw_all`: nothing that
    was there to be seen can have escaped it, rows that are gone included. `seconds`: how long it took.
    """

    changed: Chunk = field(default_factory=dict)
    positions: dict[str, Sequence[Position]] = field(default_factory=dict)
    is_full: bool = True
    saw_all: bool = True
    seconds: float = 0.0


def chunks(adapter: Target, declared: Declared, resource: str, tenant: str) -> Iterator[Chunk]:
    """Every row of the tenant in one resource, some at a time.

    Raises TargetUnavailable.
    """
    yield from _some_at_a_time(declared, adapter.scan(resource, tenant_at(declared, resource, tenant)))


def sweep(
    store: Connection,
    adapter: Target,
    declared: Declared,
    tenant: str,
    *,
    besides: Collection[str],
    waiting: Collection[RowKey],
    is_full: bool,
    now: Callable[[], dt.datetime],
    learn: Callable[[Iterable[Row | None]], None],
    go_on: Callable[[], object],
) -> Sweep:
    """The rows of the tenant that are not as the baseline has them.

    Resources in `besides` have no baseline, so nothing is said of them; rows in `waiting` are looked at whether they
    changed or not; `is_full` has every row listed. `now` is the store's clock, `learn` is given every row, and `go_on`
    is called after each chunk. Raises TargetUnavailable.
    """
    found = Sweep()
    known = read_positions(store, tenant, declared)
    for name, resource in declared.resources.items():
        before, late = known.get(name, ()), lateness(declared, resource)
        new = None if name in besides else newest(adapter, declared, resource, tenant, before, now)
        begin = None if new is None or is_full else beginning(before, late)
        if new is not None:
            found.positions[name] = kept([*before, new], late)
        if name in besides:
            reading = chunks(adapter, declared, name, tenant)
        elif begin is None:
            reading = _all_rows(store, adapter, declared, name, tenant)
        else:
            reading = _changes(adapter, declared, resource, tenant, begin, waiting)
            found.is_full = False
            found.saw_all = found.saw_all and resource.changes is not None and resource.changes.sees_deletions
        for rows in reading:
            go_on()
            learn(rows.values())
            if name not in besides:
                found.changed.update(_differing(store, declared, name, tenant, rows))
    return found


def _all_rows(store: Connection, adapter: Target, declared: Declared, resource: str, tenant: str) -> Iterator[Chunk]:
    """Every row, and then those that the baseline has and that were not among them."""
    seen: set[int] = set()
    for rows in chunks(adapter, declared, resource, tenant):
        seen.update(map(_short, rows))
        yield rows
    gone = list(_gone(store, {"tenant": tenant, "target": declared.name, "resource": resource}, seen))
    yield from (dict.fromkeys(gone[first : first + _CHUNK]) for first in range(0, len(gone), _CHUNK))


def _changes(
    adapter: Target,
    declared: Declared,
    resource: Resource,
    tenant: str,
    begin: Position,
    waiting: Collection[RowKey],
) -> Iterator[Chunk]:
    """What changed since then, and the rows that wait and were not among that."""
    assert isinstance(adapter, Watched)  # noqa: S101  # nobody else has positions
    rest = {key for key in waiting if key.resource == resource.name}
    told = adapter.changed(resource.name, tenant_at(declared, resource.name, tenant), begin.place)
    for rows in _some_at_a_time(declared, told):
        rest -= rows.keys()
        yield rows
    keys = sorted(rest)
    for first in range(0, len(keys), _READ_AT_A_TIME):
        yield read_rows(adapter, declared, tenant, keys[first : first + _READ_AT_A_TIME])


def _some_at_a_time(declared: Declared, found: Iterator[TargetRow]) -> Iterator[Chunk]:
    while some := list(islice(found, _CHUNK)):
        yield by_key(declared, some)


def _differing(
    store: Connection, declared: Declared, resource: str, tenant: str, rows: Chunk
) -> Iterator[tuple[RowKey, Row | None]]:
    texts = {key.text: key for key in rows}
    where = {"tenant": tenant, "target": declared.name, "resource": resource, "keys": list(texts)}
    known = {texts[row["key"]]: row["digest"] for row in store.execute(queries("reconcile")["read_digests"], where)}
    for key, row in rows.items():
        if known.get(key) != digest_of_row(row):
            yield key, row


def _gone(store: Connection, where: Mapping[str, Any], seen: set[int]) -> Iterator[RowKey]:
    with store.transaction(), store.cursor(name="counterfoil_baseline") as cursor:
        cursor.itersize = _CHUNK
        cursor.execute(queries("reconcile")["list_baseline"], where)
        for row in cursor:
            key = RowKey(where["resource"], tuple(json.loads(row["key"])))
            if key.key and _short(key) not in seen:
                yield key


def _short(key: RowKey) -> int:
    return int.from_bytes(blake2b(key.text.encode(), digest_size=8).digest(), "big")
