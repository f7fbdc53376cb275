"""Events of former months, put into the store as ingest would have put them then."""

import dataclasses
import datetime as dt
import itertools
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from counterfoil import Event
from counterfoil_consumers.projection import Written, write_batch
from counterfoil_consumers.retention import Dropped, connect_eraser, run, set_rule
from counterfoil_consumers.store import Connection, connect
from tests.consumers.made import event, reader, record, source_of

_OFFSETS = itertools.count()


def months_ago(months: int, day: int = 15) -> dt.datetime:
    """A day of the month so many before this one."""
    now = dt.datetime.now(dt.UTC)
    at = now.year * 12 + now.month - 1 - months
    return dt.datetime(at // 12, at % 12 + 1, day, tzinfo=dt.UTC)


def id_of(moment: dt.datetime) -> bytes:
    """A new UUIDv7 of that moment."""
    return int(moment.timestamp() * 1000).to_bytes(6, "big") + b"\x70\x00\x80" + os.urandom(7)


def event_of(moment: dt.datetime, **changes: Any) -> Event:
    """An event that was made at that moment."""
    at: dict[str, Any] = {"event_id": id_of(moment), "occurred_at": int(moment.timestamp() * 1e6)}
    return event(**(at | {"seq": next(_OFFSETS)} | changes))


def store(database: str, events: Iterable[Event], appended: Sequence[dt.datetime] = (), **limits: str) -> Written:
    """Write them as one batch, with the brokers' times `appended` or their own."""
    with closing(connect(database, "ingester", application="test", **limits)) as ingester:
        source = source_of(ingester)
        read = reader(ingester, source)
        rows = []
        for one, at in itertools.zip_longest(events, appended):
            took = one.occurred_at // 1000 if at is None else int(at.timestamp() * 1000)
            rows.append(read.row(record(one, 0, next(_OFFSETS), took)))
        return write_batch(ingester, source, rows, [], {})


def keep(operator: Connection, months: int | None, retention_class: str = "standard") -> None:
    """A rule from now on."""
    set_rule(operator, retention_class, months, "a test", "dana", is_short=True)


def run_retention(database: str) -> list[Dropped]:
    """One run."""
    with closing(connect_eraser(database)) as eraser:
        return run(eraser, "dana")


def ids(operator: Connection, table: str) -> set[bytes]:
    """The ids of all events in a table."""
    return {row["event_id"].bytes for row in operator.execute(f"SELECT event_id FROM {table}")}


def with_other_content(one: Event) -> Event:
    """The same id, and something else."""
    return dataclasses.replace(one, agent="another")
