"""What we emit goes through Postgres first: final bytes, in the transaction of the decision.

The relay sends them at least once and unchanged, so a consumer collapses repetitions on `event_id`.
One relay works at a time, whoever has the turn.
"""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from counterfoil.failpoints import pass_by
from counterfoil.kafka import delivery_error, new_producer
from counterfoil_consumers import metrics
from counterfoil_consumers.background import Background
from counterfoil_consumers.binary_copy import byteas, texts, uuids
from counterfoil_consumers.errors import BrokersAway, StoreAway
from counterfoil_consumers.store import Connection, connect, fetch_one, queries

_BATCH = 500
_DELIVERY_SECONDS = 8.0  # below idle_in_transaction_session_timeout
_PAUSE_SECONDS = 0.1
Headers = Sequence[tuple[str, bytes | None]]


class Outgoing(NamedTuple):
    """One message, as it will be sent."""

    topic: str
    key: bytes
    value: bytes | None
    event_id: bytes | None
    headers: Headers = ()


def put(connection: Connection, messages: Iterable[Outgoing]) -> None:
    """Add messages to the caller's transaction, in their order."""
    sent = tuple(messages)
    if not sent:
        return
    params = {
        "topics": texts(one.topic for one in sent),
        "event_ids": uuids(one.event_id for one in sent),
        "keys": byteas(one.key for one in sent),
        "values": byteas(one.value for one in sent),
        "headers": texts(headers_to_json(one.headers) for one in sent),
    }
    connection.execute(queries("outbox")["put"], params)


def headers_to_json(headers: Headers) -> str:
    """Kafka headers as JSON: names with hex values, in order, repetitions kept."""
    return json.dumps([[name, None if value is None else value.hex()] for name, value in headers])


def headers_from_json(headers: Sequence[Sequence[str | None]]) -> list[tuple[str, str | bytes | None]]:
    """The reverse of `headers_to_json`, for psycopg's decoded JSON."""
    return [(str(name), None if value is None else bytes.fromhex(value)) for name, value in headers]


class Relay(Background):
    """Sends waiting outbox rows to Kafka, from a thread or one pass at a time."""

    name = "relay"
    waits = "the outbox waits for its relay"
    retried = (StoreAway, BrokersAway, psycopg.Error)
    backoff_seconds = 2.0

    def __init__(self, dsn: str, role: str, kafka: Mapping[str, str]) -> None:
        super().__init__()
        self._dsn = dsn
        self._role = role
        self._kafka = kafka

    def _work(self, stopping: threading.Event) -> None:
        with connect(self._dsn, self._role, application="relay") as connection:
            producer = new_producer(self._kafka, "counterfoil-relay")
            while not stopping.is_set():
                if relay_batch(connection, producer) == 0:
                    stopping.wait(_PAUSE_SECONDS)


def relay_now(dsn: str, role: str, kafka: Mapping[str, str]) -> int:
    """Relay all that waits, with a connection and a producer of its own; returns how many were acknowledged.

    Raises StoreAway, BrokersAway, SettingsError.
    """
    with connect(dsn, role, application="relay") as connection:
        return relay_all(connection, new_producer(kafka, "counterfoil-relay"))


def relay_all(connection: Connection, producer: Producer) -> int:
    """Relay until nothing waits; returns how many messages were acknowledged."""
    total = 0
    while sent := relay_batch(connection, producer):
        total += sent
    return total


def relay_batch(connection: Connection, producer: Producer) -> int:
    """Send up to 500 waiting rows of each topic in order, and mark those that the brokers acknowledged.

    Returns their number; 0 where nothing waits or another relay works. Raises BrokersAway when some were not
    acknowledged, those that were being marked all the same.
    """
    named = queries("outbox")
    with connection.transaction():
        if not fetch_one(connection, named["try_to_relay_alone"])["alone"]:
            return 0
        rows = connection.execute(named["find_waiting"], {"limit": _BATCH}).fetchall()
        metrics.OUTBOX_WAITING.set(len(rows))
        if not rows:
            return 0
        acknowledged, problem = _send(producer, rows)
        pass_by("relay.before_mark")
        connection.execute(named["mark_relayed"], {"outbox_ids": acknowledged})
    metrics.OUTBOX_RELAYED.inc(len(acknowledged))
    if problem is not None:
        raise BrokersAway(f"{len(rows) - len(acknowledged)} outbox rows wait: {problem}")
    return len(acknowledged)


def _send(producer: Producer, rows: Sequence[dict[str, Any]]) -> tuple[list[int], str | None]:
    acknowledged: list[int] = []
    problems: list[str] = []

    def report(outbox_id: int) -> Any:
        def reported(error: KafkaError | None, message: Message) -> None:
            if problem := delivery_error(error, message):
                problems.append(problem.str())
            else:
                acknowledged.append(outbox_id)

        return reported

    for row in rows:
        value = None if row["value"] is None else bytes(row["value"])
        try:
            producer.produce(
                row["topic"],
                value,
                bytes(row["key"]),
                headers=headers_from_json(row["headers"]),
                on_delivery=report(row["outbox_id"]),
            )
        except (KafkaException, BufferError) as error:
            problems.append(str(error))
    if producer.flush(_DELIVERY_SECONDS):
        # What is unanswered may have been written; sent again, it collapses on event_id.
        problems.append("the brokers did not answer in time")
        producer.purge()
        producer.flush(0)
    return acknowledged, problems[0] if problems else None
