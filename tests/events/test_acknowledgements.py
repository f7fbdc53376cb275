"""An acknowledgement is one only where it names an offset: librdkafka gives others, for messages that are nowhere."""

from collections.abc import Callable
from contextlib import closing

import pytest
from confluent_kafka import Message, Producer

from counterfoil import Recorder, RecorderSettings, SettingsError
from counterfoil.kafka import new_producer
from counterfoil_consumers import outbox
from counterfoil_consumers.errors import BrokersAway
from counterfoil_consumers.outbox import relay_now
from counterfoil_consumers.store import connect
from counterfoil_schemas import topics
from tests.accounts import accounts_of
from tests.fix_log import Logged, RecordsOf
from tests.fix_refusing_broker import RefusingBroker

Refusing = Callable[[str], RefusingBroker]
ALONE = {"batch.num.messages": "1"}


@pytest.fixture
def topic(topic_prefix: str) -> str:
    """The test's topic of events."""
    return topics("local", topic_prefix)["events"].name


def test_librdkafka_acknowledges_what_no_broker_took(
    topic: str, refusing_broker: Refusing, records_of: RecordsOf
) -> None:
    """The control: if this fails, librdkafka or Kafka is mended, and `delivery_error` may go."""
    proxy = refusing_broker(topic)
    producer = Producer({"bootstrap.servers": proxy.bootstrap_servers, "enable.idempotence": True, **ALONE})
    reports: list[tuple[object, int | None]] = []

    def delivered(error: object, message: Message) -> None:
        reports.append((error, message.offset()))

    for value in (b"first", b"second"):
        producer.produce(topic, value, partition=3, on_delivery=delivered)
    assert producer.flush(20) == 0
    assert proxy.refused == 1
    assert reports == [(None, None), (None, 0)]
    assert [record.value for record in records_of("events")] == [b"second"]


def test_what_a_recorder_was_told_is_written_and_is_not_is_sent_again(
    recorder_settings: RecorderSettings, topic: str, refusing_broker: Refusing, logged: Logged
) -> None:
    proxy = refusing_broker(topic)
    kafka = ALONE | {"bootstrap.servers": proxy.bootstrap_servers}
    with Recorder(recorder_settings.model_copy(update={"kafka": kafka})) as recorder:
        with recorder.task("t") as task:
            for number in range(20):
                task.review(by=str(number))
        assert recorder.flush(20) == 0
    assert proxy.refused == 1
    accounts = accounts_of(logged())
    assert len(accounts) == 2
    assert all(account.missing == account.gaps == set() for account in accounts.values()), accounts


def test_what_the_relay_was_told_is_written_and_is_not_stays_in_the_outbox(
    database: str, topic: str, refusing_broker: Refusing, records_of: RecordsOf
) -> None:
    proxy = refusing_broker(topic)
    with closing(connect(database, "ingester", application="test")) as store:
        outbox.put(store, [outbox.Outgoing(topic, b"acme/1", value, None) for value in (b"first", b"second")])
    kafka = ALONE | {"bootstrap.servers": proxy.bootstrap_servers}
    with pytest.raises(BrokersAway, match=r"1 outbox rows wait: .*without an offset"):
        relay_now(database, "ingester", kafka)
    assert relay_now(database, "ingester", kafka) == 1
    assert [record.value for record in records_of("events")] == [b"second", b"first"]


@pytest.mark.parametrize("acks", ["0", "1"])
def test_what_one_broker_may_lose_is_not_written(kafka: dict[str, str], acks: str) -> None:
    with pytest.raises(SettingsError, match=f"acks={acks} would .* unset COUNTERFOIL_KAFKA__ACKS"):
        new_producer(kafka | {"acks": acks}, "test")
