"""What the brokers hold, read back; and Python code run in a process of its own."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from counterfoil import Event, RecorderSettings
from counterfoil.codec import decode
from counterfoil_consumers.records import Record
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_schemas import topics
from tests.fix_recorder import IDENTITY_KEY

RecordsOf = Callable[[str], list[Record]]
Logged = Callable[[], list[Event]]
StartPython = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def records_of(kafka: dict[str, str], topic_prefix: str) -> RecordsOf:
    """All records now in one of the test's topics (`events`, `dead_letters`), by partition and offset."""
    admin = admin_client(kafka)

    def read(short: str) -> list[Record]:
        topic = topics("local", topic_prefix)[short]
        ends = end_offsets(admin, topic.name, topic.partitions)
        left = {partition for partition, end in enumerate(ends) if end}
        found: list[Record] = []
        with closing(Consumer({**kafka, "group.id": "reader", "enable.auto.commit": False})) as consumer:
            consumer.assign([TopicPartition(topic.name, partition, 0) for partition in left])
            while left:
                for message in consumer.consume(1000, 0.1):
                    assert message.error() is None
                    record = Record(
                        topic.name,
                        int(message.partition() or 0),
                        int(message.offset() or 0),
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                        tuple(message.headers() or ()),  # type: ignore[arg-type]  # pairs, once consumed
                    )
                    found.append(record)
                    if record.offset + 1 >= ends[record.partition]:
                        left.discard(record.partition)
        return sorted(found, key=lambda record: (record.partition, record.offset))

    return read


@pytest.fixture
def logged(records_of: RecordsOf) -> Logged:
    """The events now in the log; those of one task are in their order."""

    def read() -> list[Event]:
        return [decode(record.value or b"") for record in records_of("events")]

    return read


def variables_of(settings: RecorderSettings) -> dict[str, str]:
    """The variables of a process whose `Recorder.from_env()` records where these settings do."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERFOIL_")}
    return plain | {
        "COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS": settings.kafka["bootstrap.servers"],
        "COUNTERFOIL_PROFILE": "local",
        "COUNTERFOIL_TOPIC_PREFIX": settings.topic_prefix,
        "COUNTERFOIL_TENANT": "acme",
        "COUNTERFOIL_IDENTITY_KEY": IDENTITY_KEY,
        "COUNTERFOIL_SPOOL_DIRECTORY": str(settings.spool_directory),
    }


@pytest.fixture
def start_python(recorder_settings: RecorderSettings) -> Iterator[StartPython]:
    """Starts Python code whose `Recorder.from_env()` records on the test's topics; keywords are variables."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env=variables_of(recorder_settings) | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run_python(start_python: StartPython) -> Callable[..., str]:
    """Runs Python code as `start_python` does, to its good end; returns what it printed."""

    def run(code: str, *arguments: str, **variables: str) -> str:
        process = start_python(code, *arguments, **variables)
        printed, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return printed

    return run


Produce = Callable[..., tuple[int, int]]


@pytest.fixture
def produce(kafka: dict[str, str], topic_prefix: str) -> Produce:
    """Writes raw bytes to the events topic, whoever a stranger may be; returns partition and offset."""
    large = {"message.max.bytes": 100_000_000, "compression.type": "zstd"}
    producer = Producer({**kafka, **large, "partitioner": "murmur2_random", "logger": logging.getLogger("tests")})
    topic = topics("local", topic_prefix)["events"].name

    def write(
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int = -1,
    ) -> tuple[int, int]:
        landed: list[tuple[int, int]] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            landed.append((int(message.partition() or 0), int(message.offset() or 0)))

        producer.produce(topic, value, key, partition=partition, headers=list(headers), on_delivery=delivered)
        assert producer.flush(10) == 0
        return landed[0]

    return write
