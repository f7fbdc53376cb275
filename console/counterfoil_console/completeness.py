"""Whether all that was emitted is there: emitted = stored + gaps + missing, and who fell silent.

Numbers that are on their way are not missing: what a producer that still beats has lately given out, and whatever
ingest has yet to read. The moments are the broker's and the store's, never a producer's.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_reconcilers.settling import Producer

_GRACE = dt.timedelta(seconds=30)  # from a producer's last word to the moment at which others of its events are missed

_SILENT_AFTER = dt.timedelta(seconds=30)


@dataclass(frozen=True)
class Completeness:
    """The totals, tasks with numbers missing or given up, and producers that fell silent without a goodbye.

    `in_flight` of the missing numbers may yet come; `lag` records are not ingested (None: no broker could be asked).
    """

    totals: Mapping[str, int]
    tasks: Sequence[Mapping[str, Any]]
    gaps: Sequence[Mapping[str, Any]]
    silent: Sequence[Mapping[str, Any]]
    lag: int | None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing that should be there by now."""
        return self.totals["missing"] == 0 and not self.silent


def read_completeness(store: Connection, tenant: str | None, limit: int, lag: int | None) -> Completeness:
    """As the store has it now, with at most `limit` tasks and gaps in its lists.

    `lag` is how many records ingest had yet to read a moment before.
    """
    named = queries("console")
    where = {"tenant": tenant}
    now = fetch_one(store, named["read_clock"])["now"]
    found = fetch_one(store, named["completeness_totals"], where)
    rows = [
        {**row, "in_flight": is_in_flight(row, now, lag)} for row in store.execute(named["incomplete_tasks"], where)
    ]
    producers = store.execute(named["producers_alive_or_not"], where).fetchall()
    silent = [row for row in producers if is_silent(row, now) and lag == 0]
    in_flight = sum(row["missing"] for row in rows if row["in_flight"])
    totals = {
        **found,
        "missing": found["missing"] - in_flight,
        "in_flight": in_flight,
        "open": sum(not row["closed"] for row in producers) - len(silent),
        "closed": sum(row["closed"] and row["adopted_by"] is None for row in producers),
        "adopted": sum(row["adopted_by"] is not None for row in producers),
        "silent": len(silent),
    }
    gaps = store.execute(named["gap_reasons"], {"tenant": tenant, "limit": limit}).fetchall()
    return Completeness(totals, rows[:limit], gaps, silent, lag)


def is_silent(producer: Mapping[str, Any], now: dt.datetime) -> bool:
    """Whether it has said no goodbye, and nothing else for three beats and half a minute."""
    interval = dt.timedelta(microseconds=producer["beat_interval"] or 0)
    return not producer["closed"] and Producer(0, 0, interval, producer["heard_at"]).is_lost(now, _SILENT_AFTER)


def is_in_flight(task: Mapping[str, Any], now: dt.datetime, lag: int | None) -> bool:
    """Whether its missing numbers may yet come: ingest lags, or its producer lives and spoke of them just now."""
    if lag != 0:
        return True
    # Where only claims are there, the producer's own events are all missing, and nobody knows when it was heard.
    has_ended = task["heard_at"] is not None and (task["closed"] or is_silent(task, now))
    return bool(now - task["heard_at" if has_ended else "last_at"] < _GRACE)
