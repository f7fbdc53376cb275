"""Rows that people repaired by hand: such a change is explained by the operation that says so.

An operation stands in the log, so it is held against a row's fence as intents are. It explains what a check finds that
differs from the row's last known state, as long as that state was read before the operation was durable; whatever
becomes the last known state after it has used it up. So one operation never explains a later change.
"""

import datetime as dt
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import Fence, Past
from counterfoil_reconcilers.rows import RowKey

_LONGEST_KEY = 2_000  # bytes; a longer one is no row's, since no baseline could hold it


@dataclass(frozen=True)
class Repair:
    """Where an operation that names a repaired row stands in the log, and since when (the broker's clock)."""

    partition: int
    offset: int
    appended_at: dt.datetime


class Repairs:
    """Those that are not used up, by row."""

    def __init__(self, by_row: Mapping[RowKey, tuple[Repair, ...]]) -> None:
        self._by_row = by_row

    def __contains__(self, key: RowKey) -> bool:
        return key in self._by_row

    @property
    def rows(self) -> Collection[RowKey]:
        """The rows that were repaired."""
        return self._by_row.keys()

    def past(self, key: RowKey, fence: Fence) -> Fence:
        """The fence beyond the row's repairs.

        It rises on their partitions alone, up to offsets that are ingested: no intent that is still unknown is thereby
        taken for one that the row may hold already.
        """
        ends = list(fence)
        for repair in self._by_row.get(key, ()):
            ends[repair.partition] = max(ends[repair.partition], repair.offset + 1)
        return tuple(ends)

    def older_than(self, moment: dt.datetime, by: dt.timedelta) -> Iterator[RowKey]:
        """Rows whose repairs were all said so long before `moment`, which may be the beginning of time."""
        for key, repairs in self._by_row.items():
            if all(moment - repair.appended_at >= by for repair in repairs):
                yield key


NO_REPAIRS = Repairs({})


def read_repairs(store: Connection, tenant: str, target: str, past: Past) -> Repairs:
    """The repairs at a target that no check has used up; to be read before the target is looked at."""
    first_fence = past.baseline.first_fence
    if first_fence is None:
        return NO_REPAIRS
    where = {"tenant": tenant, "target": target, "first_fence": list(first_fence)}
    found = [
        (RowKey(row["resource"], parts), Repair(row["partition"], row["offset"], row["appended_at"]))
        for row in store.execute(queries("reconcile")["find_repairs"], where)
        if (parts := _key(row["key"])) is not None
    ]
    past.load(key for key, _ in found)
    fences = past.baseline.fences
    by_row: dict[RowKey, tuple[Repair, ...]] = {}
    for key, repair in found:
        if repair.offset >= fences.get(key, first_fence)[repair.partition]:
            by_row[key] = (*by_row.get(key, ()), repair)
    return Repairs(by_row)


def _key(text: str) -> tuple[str, ...] | None:
    """The key that an operation gives; None if it is none that a row could have, for anybody may have written it."""
    if len(json.dumps(text)) > _LONGEST_KEY:
        return None
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(parts)
