"""Events and records that no recorder would write, made by hand."""

import dataclasses
import datetime as dt
import hashlib
import io
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import fastavro
import psycopg

from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import new_id, partition_key, task_id_of
from counterfoil.signing import Signer, SigningKey
from counterfoil_consumers.records import Reader, Record, Window
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_consumers.window import open_window
from counterfoil_schemas import avro_schemas

PRODUCER = new_id()
_REVIEW = MappingProxyType({"by": "dana"})
TASK = task_id_of("acme", "T-9")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def event(kind: str = "review", body: Mapping[str, Any] | None = _REVIEW, **changes: Any) -> Event:
    """An event of tenant acme; `changes` are fields of the envelope."""
    plain = Event(
        event_id=new_id(),
        kind=kind,
        body=body,
        tenant="acme",
        workflow="support",
        task_id=TASK,
        agent="support-7",
        producer_id=PRODUCER,
        seq=0,
        occurred_at=time.time_ns() // 1000,
    )
    return dataclasses.replace(plain, **changes)


def intent(**changes: Any) -> Event:
    """A tool_intent whose effect is `changes["effect_id"]`."""
    body = {"tool": "refund", "target": "payments", "write": True, "args": "{}"} | changes.pop("body", {})
    return event("tool_intent", body, **({"effect_id": b"\x01" * 16, "attempt": 1} | changes))


def result(outcome: str, **changes: Any) -> Event:
    """A tool_result of the same effect."""
    body = {"tool": "refund", "outcome": outcome, "duration": 1} | changes.pop("body", {})
    return event("tool_result", body, **({"effect_id": b"\x01" * 16, "attempt": 1} | changes))


def key_of(one: Event) -> bytes:
    return partition_key(one.tenant, one.task_id)


def record(one: Event, partition: int, offset: int, appended_at: int = 1_750_000_000_000) -> Record:
    """The record that the brokers would give out for an event."""
    return Record("counterfoil.events", partition, offset, appended_at, key_of(one), encode(one), ())


def source_of(ingester: Connection) -> Source:
    """A source of records that this store knows."""
    where = {"cluster_id": "c", "topic_id": "t", "topic": "counterfoil.events"}
    ingester.execute(queries("ingest")["add_source"], where)
    found = fetch_one(ingester, queries("ingest")["find_source"], where)
    return Source("test", "c", "t", found["source_id"], "dead", found["fact_oid"])


def reader(ingester: Connection, source: Source, window: Window | None = None) -> Reader:
    """A reader of such records, by default for the window of today."""
    return Reader(source.source_id, open_window(ingester) if window is None else window)


def put_key(dsn: str, key: SigningKey, valid_from: dt.datetime = EPOCH, retired_at: dt.datetime | None = None) -> None:
    """A key in the store of which a test knows the secret and sets the times; its tenant is registered."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL ROLE counterfoil_owner")
        connection.execute("INSERT INTO counterfoil.tenant (tenant) VALUES (%s) ON CONFLICT DO NOTHING", [key.tenant])
        connection.execute(
            "INSERT INTO counterfoil.tenant_key (tenant, key_id, key, made_at, valid_from, retired_at) "
            "VALUES (%s, %s, %s, now(), %s, %s)",
            [key.tenant, key.key_id, key.secret, valid_from, retired_at],
        )


def signature(key: SigningKey, value: bytes) -> tuple[str, bytes]:
    """The header that signs a value."""
    name, text = Signer(key).header(value)
    return name, text.encode()


def noise(size: int) -> str:
    """Text that no compression shrinks, the same every time."""
    return "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(size // 64 + 1))[:size]


def attempted(one: Event, attempt: int) -> bytes:
    """The value of an event whose attempt is beyond an Avro int, as no writer that keeps to the schema makes it."""
    value = encode(one)
    [definition] = [schema.definition for schema in avro_schemas() if schema.subject == "event"]
    fields = [{**f, "type": ["null", "long"]} if f["name"] == "attempt" else f for f in definition["fields"]]
    record = fastavro.schemaless_reader(io.BytesIO(value[10:]), fastavro.parse_schema(definition), None)
    assert isinstance(record, dict)
    out = io.BytesIO(value[:10])
    out.seek(10)
    fastavro.schemaless_writer(
        out, fastavro.parse_schema({**definition, "fields": fields}), {**record, "attempt": attempt}
    )
    return out.getvalue()
