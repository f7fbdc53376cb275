"""What an event takes: `python -m bench.sizes --data DIR [--times N]`.

Recorded runs of real agents (the format of examples.trajectories) are recorded through the Recorder as often as asked
for, ingested into a new store, and measured: bytes an event in Kafka's log, and in Postgres by kind, by relation and as
write-ahead log.
"""

import argparse
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from bench.servers import Servers, servers
from bench.sinks import settings_of
from counterfoil import Recorder
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_reconcilers.contracts import load
from examples.trajectories.playing import play
from examples.trajectories.recording import Run, read_recording

_CONTRACTS = Path(__file__).parents[1] / "examples/trajectories/contracts.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of recorded runs")
    parser.add_argument("--times", type=int, default=10, help="how often they are recorded")
    given = parser.parse_args(arguments)
    runs = read_recording(given.data, given.data / "events.jsonl.gz").runs
    with servers() as own:
        with Recorder(settings_of(own, own.prefix)) as recorder:
            play(recorder, _often(runs, given.times), load(_CONTRACTS))
        for _ in migrate(own.dsn):
            pass
        with psycopg.connect(own.dsn, autocommit=True) as connection:
            before = _wal_bytes(connection)
            member = Ingest(kafka=own.kafka, dsn=own.dsn, profile="local", topic_prefix=own.prefix, admit_tenants=True)
            member.run(threading.Event(), until=member.end_offsets())
            wal = _wal_bytes(connection) - before
        with closing(connect(own.dsn, "operator", application="bench")) as store:
            _show(store, _log_bytes(own), wal)
    return 0


def _often(runs: Sequence[Run], times: int) -> Iterator[Run]:
    for number in range(times):
        for run in runs:
            yield Run(f"{run.trace_id}-{number}", run.tenant, run.domain, run.steps)


def _wal_bytes(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return int(str(row[0]))


def _log_bytes(given: Servers) -> int:
    """Of the records, not of the indexes that are allocated beside them."""
    return sum(
        file.stat().st_size for file in (given.folder / "data").rglob(f"{given.prefix}counterfoil.events-*/*.log")
    )


def _show(store: Connection, log_bytes: int, wal_bytes: int) -> None:
    named = queries("sizes")
    kinds = store.execute(named["by_kind"]).fetchall()
    events = sum(row["events"] for row in kinds)
    relations = store.execute(named["by_relation"]).fetchall()
    out = Console(width=110)
    table = Table(title=f"{events:,} events of recorded runs, bytes an event", title_justify="left")
    for name in ("kind", "share", "value on the wire", "body as JSON", "row in Postgres"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for row in kinds:
        sizes = (f"{row[name]:,.0f}" for name in ("value", "body", "row"))
        table.add_row(row["kind"], f"{row['events'] / events:.1%}", *sizes)
    out.print(table)
    table = Table(title="bytes an event, all kinds", title_justify="left")
    for name in ("where", "table", "indexes"):
        table.add_column(name, justify="left" if name == "where" else "right")
    table.add_row("Kafka's log, one replica", f"{log_bytes / events:,.0f}", "")
    for row in relations:
        table.add_row(row["name"], f"{row['bytes'] / events:,.0f}", f"{row['index_bytes'] / events:,.0f}")
    total = fetch_one(store, named["whole"])["bytes"]
    table.add_row("the schema, everything", f"{total / events:,.0f}", "")
    table.add_row("write-ahead log while it was ingested", f"{wal_bytes / events:,.0f}", "")
    out.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
