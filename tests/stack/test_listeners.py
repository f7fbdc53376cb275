"""What the cut set of jars must still do: TLS, SASL, and the cleaner of compacted topics."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from counterfoil_console.stack import KafkaOptions, LocalStack, SaslSsl, StackState
from tests.waiting import wait_until

from .conftest import CACHE

Settings = dict[str, str | int | float | bool]
LOGIN = ("agent", 'p"ss w\\rd=é')


@pytest.fixture(scope="module")
def state(authority: Path) -> Iterator[StackState]:
    options = KafkaOptions(
        sasl_ssl=SaslSsl(authority / "keystore.pem", *LOGIN),
        settings={"log.cleaner.backoff.ms": "200"},
    )
    with (
        tempfile.TemporaryDirectory(prefix="counterfoil-") as folder,
        LocalStack(Path(folder), CACHE, kafka=options).running() as running,
    ):
        yield running


def secure(state: StackState, authority: Path, mechanism: str, password: str) -> Settings:
    assert state.sasl_ssl_bootstrap_servers is not None
    return {
        "bootstrap.servers": state.sasl_ssl_bootstrap_servers,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(authority / "ca.pem"),
        "sasl.mechanism": mechanism,
        "sasl.username": LOGIN[0],
        "sasl.password": password,
        "log_level": 0,
    }


def create_topic(state: StackState, name: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": state.bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, 1, 1, config=config)]).values():
        future.result(10)


def read_all(settings: Settings, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    consumer = Consumer({**settings, "group.id": "reader", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[tuple[bytes | None, bytes | None]] = []
    try:
        while (message := consumer.poll(15)) is not None and message.error() is None:
            found.append((message.key(), message.value()))
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_round_trip_by_tls_and_sasl(state: StackState, authority: Path, mechanism: str) -> None:
    topic = f"secure-{mechanism}"
    create_topic(state, topic)
    settings = secure(state, authority, mechanism, LOGIN[1])
    producer = Producer({**settings, "enable.idempotence": True})
    producer.produce(topic, b"value", b"key")
    assert producer.flush(15) == 0
    assert read_all(settings, topic) == [(b"key", b"value")]
    brokers = AdminClient(settings).list_topics(timeout=10).brokers
    assert [f"{broker.host}:{broker.port}" for broker in brokers.values()] == [state.sasl_ssl_bootstrap_servers]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password_is_refused(state: StackState, authority: Path, mechanism: str) -> None:
    admin = AdminClient(secure(state, authority, mechanism, "wrong"))
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1.5)


def test_the_cleaner_compacts(state: StackState) -> None:
    create_topic(
        state,
        "compacted",
        **{
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.01",
            "segment.ms": "100",
            "max.compaction.lag.ms": "200",
        },
    )
    settings: Settings = {"bootstrap.servers": state.bootstrap_servers}
    producer = Producer(settings)
    for round_number in range(5):
        for key in (b"a", b"b"):
            producer.produce("compacted", b"%d" % round_number, key)
        assert producer.flush(10) == 0

    def cleaned() -> bool:
        producer.produce("compacted", b"now", b"tick")  # segments roll when something is appended
        producer.flush(10)
        found = [record for record in read_all(settings, "compacted") if record[0] != b"tick"]
        return found == [(b"a", b"4"), (b"b", b"4")]

    wait_until(cleaned, 30)


def test_transactions_work(state: StackState) -> None:
    create_topic(state, "transactional")
    producer = Producer({"bootstrap.servers": state.bootstrap_servers, "transactional.id": "one"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce("transactional", b"undone")
    producer.abort_transaction(20)
    producer.begin_transaction()
    producer.produce("transactional", b"done")
    producer.commit_transaction(20)
    found = read_all({"bootstrap.servers": state.bootstrap_servers}, "transactional")
    assert found == [(None, b"done")]
