"""One digest of the projections: equal events give equal digests, whatever the order in which they were folded.

Each row is hashed by Postgres (SHA-256 of its columns as text), and the hashes of a table in the order of its keys.
Where an event's row lies is left out: events astray count as events. A log is named by its topic id, not by the
number that this store gave it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from counterfoil_consumers.store import Connection, queries

# Each table with its key; its columns are what the catalogue says.
PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "event": ("tenant", "event_id", "retention_class"),
    "duplicate": ("tenant", "source_id", "partition", "offset"),
    "effect": ("tenant", "effect_id"),
    "effect_resource": ("tenant", "target", "resource", "key", "effect_id"),
    "target_change": ("tenant", "change_id", "resource", "key"),
    "verdict_operation": ("tenant", "verdict_event_id"),
    "repair": ("tenant", "target", "resource", "key", "event_id"),
    "task": ("tenant", "task_id"),
    "producer": ("tenant", "producer_id", "task_id"),
    "producer_claim": ("tenant", "producer_id", "task_id"),
    "retrieval_source": ("tenant", "source", "event_id", "place"),
    "task_cost": ("tenant", "task_id", "model", "currency"),
}
_ALSO = {"event": ("event_astray",)}
_FETCHED = 50_000


@dataclass(frozen=True, slots=True)
class TableDigest:
    """How many rows a table has, and the SHA-256 over the hashes of its rows."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of all projections, and of each."""

    sha256: str
    tables: Mapping[str, TableDigest]

    def differing(self, other: "Digest") -> list[str]:
        """The tables in which two digests differ."""
        return [name for name, one in self.tables.items() if other.tables[name] != one]


def digest(connection: Connection, schema: str) -> Digest:
    """Of the projections in a schema. The connection is in a transaction that sees one snapshot (`store.snapshot`)."""
    tables = {name: _of_table(connection, schema, name) for name in PROJECTIONS}
    whole = "".join(f"{name} {one.rows} {one.sha256}\n" for name, one in tables.items())
    return Digest(hashlib.sha256(whole.encode()).hexdigest(), tables)


def columns_of(connection: Connection, schema: str, table: str) -> dict[str, str]:
    """The columns of a table by name, each with the name of its type."""
    rows = connection.execute(queries("digest")["list_columns"], {"schema": schema, "name": table})
    return {row["name"]: row["type"] for row in rows}


def _of_table(connection: Connection, schema: str, name: str) -> TableDigest:
    columns = columns_of(connection, schema, name)
    named = sql.SQL(", ").join(map(sql.Identifier, columns))
    parts = [
        sql.SQL("SELECT {} FROM {}").format(named, sql.Identifier(schema, table))
        for table in (name, *_ALSO.get(name, ()))
    ]
    query = sql.SQL("SELECT sha256(convert_to(ROW({})::text, 'UTF8')) AS digest FROM ({}) AS t ORDER BY {}").format(
        sql.SQL(", ").join(map(_hashed, columns)),
        sql.SQL(" UNION ALL ").join(parts),
        sql.SQL(", ").join(_sorted(key, columns[key]) for key in PROJECTIONS[name]),
    )
    whole, rows = hashlib.sha256(), 0
    with connection.cursor("digest") as cursor:
        cursor.itersize = _FETCHED
        for row in cursor.execute(query):
            whole.update(row["digest"])
            rows += 1
    return TableDigest(rows, whole.hexdigest())


def _hashed(column: str) -> sql.Composable:
    if column == "source_id":
        return sql.SQL(
            "(SELECT (s.cluster_id, s.topic_id) FROM counterfoil.log_source AS s WHERE s.source_id = t.source_id)"
        )
    if column == "value":
        return sql.SQL("sha256(value)")  # the exact bytes, in a size that a row of text can have
    return sql.Identifier(column)


def _sorted(column: str, type_name: str) -> sql.Composable:
    return sql.SQL('{} COLLATE "C"' if type_name == "text" else "{}").format(sql.Identifier(column))
