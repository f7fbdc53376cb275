"""Reads what an older ingest stored unread, once this version knows its kind and its body, and folds it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql
from psycopg.rows import DictRow

from counterfoil.errors import DecodeError
from counterfoil.framing import Framing
from counterfoil_consumers.binary_copy import JSON, Items
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.projection import fold, open_checks
from counterfoil_consumers.records import Reader, Row, Window, stored_record
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, batches, connect, queries, snapshot

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Folded:
    """How many unread events are read now, and how many this version does not know either."""

    read: int
    unread: int


def fold_unread(dsn: str, framing: Framing, tell: Callable[[int], None] = lambda looked_at: None) -> Folded:
    """Read and fold what is unread, beside a running ingest; cut short, it goes on where it was.

    `dsn` logs in as a role that may act as owner, ingester and operator: the migrator. Raises StoreError, StoreAway and
    RegistryError.
    """
    read = looked_at = 0
    with (
        closing(connect(dsn, "operator", application="fold", idle_in_transaction_session_timeout="0")) as operator,
        closing(connect(dsn, "ingester", application="fold")) as writer,
        snapshot(operator),
        operator.cursor("unread") as cursor,
    ):
        sources = _sources(writer)
        readers = {source_id: Reader(source_id, Window({}), framing) for source_id in sources}
        cursor.itersize = _BATCH
        for batch in batches(cursor.execute(queries("unread")["find_unread"]), _BATCH):
            read += _fold_batch(writer, sources, readers, batch)
            looked_at += len(batch)
            tell(looked_at)
    return Folded(read, looked_at - read)


def _sources(store: Connection) -> dict[int, Source]:
    return {
        row["source_id"]: Source("", row["cluster_id"], row["topic_id"], row["source_id"], "", row["fact_oid"])
        for row in store.execute(queries("unread")["list_sources"])
    }


def _fold_batch(
    writer: Connection, sources: Mapping[int, Source], readers: Mapping[int, Reader], batch: Sequence[DictRow]
) -> int:
    """Mark and fold in one transaction; returns how many were read."""
    read: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for stored in batch:
        row = _read(readers[stored["source_id"]], stored)
        if row is not None:
            read[stored["leaf"], stored["source_id"]].append(row)
    marked = 0
    with writer.transaction():
        for (leaf, source_id), rows in read.items():
            writer.execute("SET LOCAL ROLE counterfoil_owner")  # an event's row is nobody else's to change
            now_read = _mark(writer, leaf, rows)
            writer.execute("SET LOCAL ROLE counterfoil_ingester")
            fold(writer, sources[source_id], now_read, are_counted=True)
            open_checks(writer, now_read)
            marked += len(now_read)
    return marked


def _read(reader: Reader, stored: DictRow) -> Row | None:
    try:
        row = reader.row(stored_record(stored))
    except (BadRecord, DecodeError):  # its body is not what its schema says: it stays as it is
        return None
    return row if row.is_read else None


def _mark(writer: Connection, leaf: str, rows: Sequence[Row]) -> list[Row]:
    params = {
        "tenants": [row.tenant for row in rows],
        "ids": [row.event_id.hex() for row in rows],
        "bodies": Items([row.body for row in rows], JSON),
    }
    query = queries("unread")["mark_read"].format(leaf=sql.Identifier("counterfoil", leaf))
    return [rows[found["place"] - 1] for found in writer.execute(query, params)]
