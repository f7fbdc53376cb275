"""Who obeys an order: acknowledgements as they come over Kafka, and what the store knows of clients and writes."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from counterfoil.codec import decode
from counterfoil.control import GROUP
from counterfoil.errors import CounterfoilError, DecodeError, RegistryError
from counterfoil.framing import Framing
from counterfoil.ids import Id
from counterfoil.kafka import client_config
from counterfoil.orders import Order
from counterfoil.scope import Scope
from counterfoil.wire_format import framing_of
from counterfoil_console.settings import Settings
from counterfoil_consumers.store import Connection, queries
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_schemas import topics

_POLL_SECONDS = 0.1
_MOST_AT_ONCE = 500
_ACK_HEADER = ("counterfoil-kind", b"control_ack")
Client = tuple[str, Id]  # tenant, producer_id


class Acknowledgements:
    """Reads the log's new events for acknowledgements, from the moment at which it was made."""

    def __init__(self, consumer: Consumer, framing: Framing) -> None:
        self._consumer = consumer
        self._framing = framing

    def of(self, order_id: Id, seconds: float) -> Iterator[Client]:
        """Each client that acknowledges the order within `seconds`, as it does."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for message in self._consumer.consume(_MOST_AT_ONCE, min(left, _POLL_SECONDS)):
                if message.error() is None and _ACK_HEADER in (message.headers() or ()):
                    try:
                        event = decode(message.value() or b"", self._framing)
                    except (DecodeError, RegistryError):
                        continue
                    if event.body is not None and event.body["order_id"] == order_id:
                        yield event.tenant, event.producer_id


@contextmanager
def acknowledgements(settings: Settings) -> Iterator[Acknowledgements | None]:
    """Begin to listen for them; None where the log can't be read, for an order must not depend on it."""
    topic = topics(settings.profile, settings.topic_prefix)["events"]
    ours = {"group.id": GROUP, "enable.auto.commit": False, "enable.auto.offset.store": False}
    quick = {"fetch.wait.max.ms": 100}
    try:
        ends = end_offsets(admin_client(settings.kafka), topic.name, topic.partitions)
        consumer = Consumer(client_config(settings.kafka, "counterfoil-halt", quick) | ours)
    except (CounterfoilError, KafkaException):
        yield None
        return
    framing = framing_of(settings)
    with closing(consumer), closing(framing):
        consumer.assign([TopicPartition(topic.name, partition, end) for partition, end in enumerate(ends)])
        yield Acknowledgements(consumer, framing)


@dataclass(frozen=True, slots=True)
class Reach:
    """What the store knows of one order: its clients, and the writes under way that it came too late for.

    A client is one producer at one tenant. `silent` ones have not beaten for three intervals, and may be dead.
    """

    acknowledged: list[Mapping[str, Any]]
    waiting: list[Mapping[str, Any]]
    silent: list[Mapping[str, Any]]
    in_flight: list[Mapping[str, Any]]
    in_flight_count: int


def reach_of(store: Connection, order: Order, limit: int = 20) -> Reach:
    """Read it for one order; of writes under way at most `limit`, and how many there are."""
    named = queries("console")
    found = store.execute(named["open_clients"], {"tenant": order.tenant, "order_id": order.order_id.hex()}).fetchall()
    clients = [row for row in found if order.concerns(row["tenant"])]
    scope = _scope_of(order)
    where = {"tenant": scope.tenant, "kind": scope.kind, "name": scope.name, "limit": limit}
    in_flight = store.execute(named["effects_in_flight"], where).fetchall()
    return Reach(
        acknowledged=[row for row in clients if row["acknowledged"]],
        waiting=[row for row in clients if not row["acknowledged"] and not row["is_silent"]],
        silent=[row for row in clients if not row["acknowledged"] and row["is_silent"]],
        in_flight=[{name: value for name, value in row.items() if name != "total"} for row in in_flight],
        in_flight_count=in_flight[0]["total"] if in_flight else 0,
    )


def _scope_of(order: Order) -> Scope:
    """Its scope, or everything where this version can't read it, as clients take it."""
    try:
        return Scope.parse(order.scope)
    except CounterfoilError:
        return Scope("everything")


def expected_clients(store: Connection, order: Order) -> set[Client]:
    """The clients that are open and not silent, and so should acknowledge the order."""
    params = {"tenant": order.tenant, "order_id": order.order_id.hex()}
    rows = store.execute(queries("console")["open_clients"], params)
    return {(row["tenant"], row["producer_id"].bytes) for row in rows if not row["is_silent"]}


def collect(
    heard: Iterable[Client], expected: set[Client] | None, progress: Callable[[set[Client]], None]
) -> set[Client]:
    """Those that acknowledged, until all that are expected have, or nobody does any more."""
    found: set[Client] = set()
    if expected is not None and not expected:
        return found
    for client in heard:
        found.add(client)
        progress(found)
        if expected is not None and expected <= found:
            break
    return found


def order_json(order: Order) -> dict[str, Any]:
    """An order as plain values: ids as 32 hex digits, the moment as the issuer's clock had it."""
    return {
        "order_id": order.order_id.hex(),
        "scope": order.scope,
        "action": order.action,
        "by": order.by,
        "reason": order.reason,
        "lifts": [order_id.hex() for order_id in sorted(order.lifts)],
        "issued_at": order.issued_at,
    }


def client_json(client: Client) -> dict[str, str]:
    """A client as plain values."""
    return {"tenant": client[0], "producer_id": uuid.UUID(bytes=client[1]).hex}
