"""A topic of a test's own, who writes to it, and targets that read it."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported, but not by __all__

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.kafka import KafkaTarget
from counterfoil_reconcilers.targets.kafka_options import KafkaConnection
from counterfoil_reconcilers.targets.port import Address
from counterfoil_reconcilers.touched import Search
from tests.reconcilers.targets.conformance import contracts_of
from tests.waiting import wait_until

EFFECT, OTHER = "01" * 16, "02" * 16
EACH = """
[targets.bus]
kind = "kafka"
[targets.bus.resources.orders]
topic = "{topic}"
rows = "each"
key = ["position"]
headers.reference = "counterfoil-effect"
"""
LATEST = """
[targets.bus]
kind = "kafka"
[targets.bus.resources.orders]
topic = "{topic}"
rows = "latest"
key = ["id"]
message_key = "id"
"""


@contextmanager
def opening(bus: "Bus") -> Iterator[Callable[..., KafkaTarget]]:
    """Opens targets on a bus, and closes them."""
    with ExitStack() as opened:
        yield lambda *arguments, **named: opened.enter_context(bus.target(*arguments, **named))


@dataclass
class Bus:
    """A topic of the test's own, and who writes to it."""

    broker: str
    folder: Path
    topic: str = field(default_factory=lambda: f"orders-{uuid.uuid4().hex[:8]}")
    schema_registry: Mapping[str, str] = field(default_factory=dict)
    admin: AdminClient = field(init=False)
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.admin = AdminClient({"bootstrap.servers": self.broker}, logger=logging.getLogger("tests"))
        self.producer = self.new_producer()
        self.create()

    def new_producer(self, **settings: str) -> Producer:
        own = {"bootstrap.servers": self.broker, "message.max.bytes": 16_000_000, "linger.ms": 0}
        return Producer({**own, "logger": logging.getLogger("tests"), **settings})

    def create(self, config: Mapping[str, str] | None = None) -> None:
        for future in self.admin.create_topics([NewTopic(self.topic, 1, 1, config=dict(config or {}))]).values():
            future.result(30)

    def make_anew(self, config: Mapping[str, str] | None = None) -> None:
        for future in self.admin.delete_topics([self.topic]).values():
            future.result(30)
        wait_until(lambda: self.topic not in self.admin.list_topics(timeout=10).topics)
        self.create(config)
        wait_until(lambda: self.topic in self.admin.list_topics(timeout=10).topics)

    def write(
        self,
        value: Any,
        reference: str | bytes | None = None,
        *,
        key: str | bytes | None = None,
        headers: Sequence[tuple[str, str | bytes | None]] = (),
        at_millis: int = 0,
        partition: int = 0,
    ) -> None:
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        all_headers = [*headers, *([] if reference is None else [("counterfoil-effect", reference)])]
        self.producer.produce(
            self.topic, raw, key, partition=partition, headers=all_headers, timestamp=at_millis or now_millis()
        )
        assert self.producer.flush(60) == 0

    def cut_off(self, before: int) -> None:
        """Retention takes what is older than an offset."""
        futures = self.admin.delete_records([TopicPartition(self.topic, 0, before)])
        for future in futures.values():
            future.result(30)

    def contracts(self, text: str = EACH, extra: str = "") -> Contracts:
        return contracts_of(self.folder, text.replace("{topic}", self.topic) + extra)

    def target(self, text: str = EACH, extra: str = "", call_seconds: float = 60.0) -> KafkaTarget:
        connection = KafkaConnection.model_validate(self.settings)
        return KafkaTarget(self.contracts(text, extra), "bus", connection, call_seconds=call_seconds)

    @property
    def settings(self) -> dict[str, str]:
        """Those of the target, as the environment says them."""
        registry = {f"schema_registry_{name.replace('.', '_')}": said for name, said in self.schema_registry.items()}
        return {"bootstrap_servers": self.broker, **registry}


def now_millis() -> int:
    return int(time.time() * 1000)


def order(key: str) -> Address:
    return Address(None, RowKey("orders", (key,)))


def docs_of(target: KafkaTarget, **fields: Any) -> list[Any]:
    """What a search finds: documents, or problems."""
    found = target.find(None, [Search("orders", tuple(sorted(fields.items())))], 50)
    return [row.row.problem or row.row.doc for row in found if row.row is not None]
