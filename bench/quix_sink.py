"""quixstreams' PostgreSQLSink on our topic: `python quix_sink.py SERVERS TOPIC DSN FOLDER`, where it is installed.

Set as it ran best: batches of 5,000, `fetch.queue.backoff.ms` 5. It reads our records with fastavro, envelope and body.
"""

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
from psycopg2.extensions import parse_dsn
from quixstreams import Application
from quixstreams.models.serializers import Deserializer
from quixstreams.sinks.community.postgresql import PostgreSQLSink

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMAS = Path(__file__).parents[1] / "schemas" / "counterfoil_schemas" / "avro"
COLUMNS = ("tenant", "kind", "workflow", "environment", "mode", "agent", "seq")
IDS = ("event_id", "task_id", "effect_id", "producer_id")


def newest(subject: str) -> Any:
    """The schema that our recorder writes with."""
    versions = sorted(
        (SCHEMAS / subject).glob("*.avsc"), key=lambda path: int("".join(filter(str.isdigit, path.stem)) or 0)
    )
    return fastavro.parse_schema(json.loads(versions[-1].read_text()))


class Events(Deserializer):  # type: ignore[misc]  # it is not installed here
    """Single-object encoding to a row."""

    def __init__(self) -> None:
        super().__init__()
        self.envelope = newest("event")
        self.bodies: dict[str, Any] = {}

    def __call__(self, value: bytes, ctx: Any) -> dict[str, Any]:
        del ctx
        event: Any = fastavro.schemaless_reader(io.BytesIO(value[10:]), self.envelope)
        kind = event["kind"]
        if kind not in self.bodies:
            self.bodies[kind] = newest(kind)
        body = fastavro.schemaless_reader(io.BytesIO(event["body"]), self.bodies[kind])
        row = {name: event[name] for name in COLUMNS}
        row |= {name: None if event[name] is None else event[name].hex() for name in IDS}
        row["occurred_at"] = EPOCH + timedelta(microseconds=event["occurred_at"])
        row["body"] = json.dumps(body, default=bytes.hex)
        row["value"] = value
        return row


def main(servers: str, topic: str, dsn: str, folder: str) -> None:
    """Run until it is ended."""
    where = parse_dsn(dsn)
    application = Application(
        broker_address=servers, consumer_group=Path(folder).name, auto_offset_reset="earliest", commit_every=5000,
        commit_interval=5, use_changelog_topics=False, state_dir=folder, loglevel="WARNING",
        consumer_extra_config={"fetch.wait.max.ms": 50, "fetch.queue.backoff.ms": 5},
    )  # fmt: skip
    sink = PostgreSQLSink(
        where["host"], int(where["port"]), where["dbname"], where["user"], where.get("password", ""), "audit",
        schema_auto_update=False, primary_key_columns="event_id", include_metadata=False, on_conflict_do_nothing=True,
    )  # fmt: skip
    application.dataframe(application.topic(topic, value_deserializer=Events())).sink(sink)
    application.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
