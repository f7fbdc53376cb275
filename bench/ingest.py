"""What storing costs: `python -m bench.ingest [--quick] [--json FILE]`.

Events a second from the topic into the store, by `counterfoil ingest` in one process and in two, and by quixstreams'
PostgreSQLSink and Debezium's JDBC sink into one table of fourteen columns; beside them one INSERT and commit a message
into that table, and as the limit COPY of the stored rows from a file into the same tables. Our clock starts with the
claim of the partitions, the peers' with their first rows. And how long it takes from `emit` to a row that others see,
at 1,000 events a second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import debezium, sinks
from bench.rows import Failed, Measure, Row, command, interleaved
from bench.servers import Servers, servers

UNITS = {
    "events_per_second": "1/s",
    "kept_share": "1",
    "client_cpu_microseconds": "us",
    "postgres_cpu_microseconds": "us",
    "emit_to_row_p50_milliseconds": "ms",
    "emit_to_row_milliseconds": "ms",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: events in the topic, seconds of the even load, and rounds."""

    events: int
    seconds: int
    rounds: int


QUICK = Plan(events=30_000, seconds=5, rounds=3)
FULL = Plan(events=200_000, seconds=20, rounds=5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0."""
    return command(
        "ingest",
        __doc__,
        "ingest: events of about 1 KiB",
        lambda quick: run(QUICK if quick else FULL),
        ratios,
        arguments,
    )


def run(plan: Plan) -> list[Row | Failed]:
    """All contenders, interleaved."""
    with servers() as given, debezium.Worker(given) as worker:
        count = sinks.fill(given, plan.events)
        return interleaved(_contenders(plan, given, worker, count), plan.rounds, UNITS)


def ratios(rows: Sequence[Row | Failed]) -> Iterator[str]:
    """How we stand to each peer and to the limit, by the medians."""
    medians = {row.contender: row.median for row in rows if isinstance(row, Row) and row.metric == "events_per_second"}
    ours = medians.get("counterfoil")
    for other in ("quixstreams", "debezium-jdbc", "naive", "copy-from-file"):
        if ours and other in medians:
            yield f"counterfoil stores {ours / medians[other]:.2f} times as many events a second as {other}"
    two, debezium_two = medians.get("counterfoil-2-processes"), medians.get("debezium-jdbc-2-tasks")
    if two and debezium_two:
        yield f"in two processes {two / debezium_two:.2f} times as many as debezium-jdbc in two tasks"
    if ours and "counterfoil-2-processes" in medians:
        yield f"two processes store {medians['counterfoil-2-processes'] / ours:.2f} times as many as one"


def _contenders(plan: Plan, given: Servers, worker: debezium.Worker, count: int) -> dict[str, Measure]:
    return {
        "counterfoil": lambda: sinks.counterfoil(given, count, processes=1),
        "counterfoil-2-processes": lambda: sinks.counterfoil(given, count, processes=2),
        "copy-from-file": lambda: sinks.copy_from_file(given, count),
        "quixstreams": lambda: sinks.quixstreams(given, count),
        "debezium-jdbc": lambda: sinks.debezium(given, worker, count, tasks=1),
        "debezium-jdbc-2-tasks": lambda: sinks.debezium(given, worker, count, tasks=2),
        "naive": lambda: sinks.naive(given, min(count, 3_000)),
        "counterfoil-at-1000-a-second": lambda: sinks.emit_to_row(given, plan.seconds),
    }


if __name__ == "__main__":
    raise SystemExit(main())
