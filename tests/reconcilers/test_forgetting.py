"""From effects at a topic to verdicts, on a real Kafka and a real Postgres: what a log lost is not called absent."""

import json
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported, but not by __all__

from counterfoil_reconcilers.contracts import Contracts, load
from tests.fix_shop import Shop, body, finish

CONTRACTS = """
version = "1"
[targets.bus]
kind = "kafka"
[targets.bus.resources.orders]
topic = "%s"
rows = "each"
key = ["position"]
headers.reference = "counterfoil-effect"
[tools.publish]
target = "bus"
[[tools.publish.writes]]
resource = "orders"
create = true
find = { reference = "effect" }
set.order = "args.order"
"""


@dataclass
class Bus:
    """A business topic beside the shop."""

    shop: Shop
    bootstrap_servers: str
    topic: str = field(default_factory=lambda: f"business-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        servers: dict[str, str | int | float | bool] = {"bootstrap.servers": self.bootstrap_servers}
        self.admin = AdminClient(servers, logger=logging.getLogger("tests"))
        self.producer = Producer({**servers, "logger": logging.getLogger("tests")})
        for future in self.admin.create_topics([NewTopic(self.topic, 1, 1)]).values():
            future.result(30)

    @property
    def contracts(self) -> Contracts:
        path = self.shop.folder / "bus.toml"
        path.write_text(CONTRACTS % self.topic)
        return load(path)

    def publish(self, outcome: str, order: str, *, lands: bool) -> uuid.UUID:
        """An attempt from intent to outcome; its message bears the effect's id."""
        effect = self.shop.begin("publish", target="bus", task=order, order=order)
        if lands:
            headers: list[tuple[str, str | bytes | None]] = [("counterfoil-effect", effect.effect_id.hex())]
            self.producer.produce(self.topic, json.dumps({"order": order}), headers=headers)
            assert self.producer.flush(60) == 0
        finish(effect, outcome)
        return uuid.UUID(bytes=effect.effect_id)

    def cut_off(self, before: int) -> None:
        """Retention takes what is older than an offset."""
        for future in self.admin.delete_records([TopicPartition(self.topic, 0, before)]).values():
            future.result(30)

    def settle(self, effect: uuid.UUID, until: Callable[[list[str]], bool]) -> list[str]:
        """The verdicts on an effect, once they are as wanted."""
        reconciler = self.shop.reconciler(
            self.contracts, target_settings={"bus": {"bootstrap_servers": self.bootstrap_servers}}
        )
        for _ in range(40):
            self.shop.step(reconciler)
            if until(self.shop.verdicts(effect)):
                break
        return self.shop.verdicts(effect)


@pytest.fixture
def bus(shop: Shop, kafka: dict[str, str]) -> Iterator[Bus]:
    made = Bus(shop, kafka["bootstrap.servers"])
    yield made
    for future in made.admin.delete_topics([made.topic]).values():
        future.result(30)


@pytest.mark.oldest_kafka_too
def test_a_message_that_bears_the_effect_is_applied_and_a_missing_one_is_drift(bus: Bus) -> None:
    landed, lost = bus.publish("ok", "A-1", lands=True), bus.publish("ok", "A-2", lands=False)
    assert bus.settle(lost, bool) == ["not_applied"]
    assert bus.shop.verdicts(landed) == ["applied"]


def test_an_effect_that_may_be_older_than_the_log_is_unknowable(bus: Bus) -> None:
    lost = bus.publish("unknown", "A-2", lands=False)
    forgotten, kept = bus.publish("ok", "A-1", lands=True), bus.publish("ok", "A-3", lands=True)
    bus.cut_off(1)
    for effect in (forgotten, lost):
        assert bus.settle(effect, bool) == ["unknowable"]
        [reason] = [body(event)["reason"] for event in bus.shop.said() if event.effect_id == effect.bytes]
        assert reason.startswith("orders tells nothing from before 2")
    assert bus.shop.verdicts(kept) == ["applied"]
    assert bus.shop.drift() == []
