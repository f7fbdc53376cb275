"""Reads all of a target in chunks, and keeps only what differs from the baseline: memory goes by changes, not by rows.

Of every row there is its hash in the store; of those that were seen, eight bytes here, to tell which are gone.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import digest_of_row
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.looking import by_key, tenant_at
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.port import Target, TargetRow

_CHUNK = 2_000
Chunk = dict[RowKey, Row | None]


def chunks(adapter: Target, declared: Declared, resource: str, tenant: str) -> Iterator[Chunk]:
    """Every row of the tenant in one resource, some at a time.

    Raises TargetUnavailable.
    """
    found: Iterator[TargetRow] = iter(adapter.scan(resource, tenant_at(declared, resource, tenant)))
    while some := list(islice(found, _CHUNK)):
        yield by_key(declared, some)


def changed_rows(
    store: Connection,
    adapter: Target,
    declared: Declared,
    tenant: str,
    *,
    besides: frozenset[str],
    learn: Callable[[Iterable[Row | None]], None],
    go_on: Callable[[], object],
) -> Chunk:
    """The rows of the tenant that are not as the baseline has them, None for those that are gone.

    Resources in `besides` have no baseline, so nothing is said of them; `learn` is given every row, and `go_on` is
    called after each chunk. Raises TargetUnavailable.
    """
    changed: Chunk = {}
    for resource in declared.resources:
        where = {"tenant": tenant, "target": declared.name, "resource": resource}
        seen: set[int] = set()
        for rows in chunks(adapter, declared, resource, tenant):
            go_on()
            learn(rows.values())
            if resource not in besides:
                changed.update(_differing(store, where, rows))
                seen.update(map(_short, rows))
        if resource not in besides:
            changed.update(dict.fromkeys(_gone(store, where, resource, seen)))
    return changed


def _differing(store: Connection, where: Mapping[str, Any], rows: Chunk) -> Iterator[tuple[RowKey, Row | None]]:
    texts = {key.text: key for key in rows}
    found = store.execute(queries("reconcile")["read_digests"], {**where, "keys": list(texts)})
    known = {texts[row["key"]]: row["digest"] for row in found}
    for key, row in rows.items():
        if known.get(key) != digest_of_row(row):
            yield key, row


def _gone(store: Connection, where: Mapping[str, Any], resource: str, seen: set[int]) -> Iterator[RowKey]:
    with store.transaction(), store.cursor(name="counterfoil_baseline") as cursor:
        cursor.itersize = _CHUNK
        cursor.execute(queries("reconcile")["list_baseline"], where)
        for row in cursor:
            key = RowKey(resource, tuple(json.loads(row["key"])))
            if key.key and _short(key) not in seen:
                yield key


def _short(key: RowKey) -> int:
    return int.from_bytes(blake2b(key.text.encode(), digest_size=8).digest(), "big")
