"""Ranges of a topic's partitions, read without a group; and what a consumed message is to us."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import methodcaller

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from counterfoil.kafka import client_config
from counterfoil_consumers.records import Record

CONSUMER: Mapping[str, str | int | bool] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "fetch.queue.backoff.ms": 5,  # the default, 1000, starves a fast consumer
    # A broker collects for up to 20 ms: to answer for each event alone took half of the processor at 1,000 a second.
    "fetch.min.bytes": 100_000,
    "fetch.wait.max.ms": 20,
}
_POLL_SECONDS = 0.1
HEADERS_UNREADABLE = (("counterfoil-headers-unreadable", b"a name is not UTF-8"),)
# Not message.headers(): where a name is not UTF-8, the client returns a broken list beside the error. Only a call that
# is checked raises then; the interpreter's specialised one goes on with that list, and may end the process.
_headers_of = methodcaller("headers")


def record_of(message: Message, topic: str) -> Record:
    """A message that is no error; a topic has one name, whatever each message says."""
    headers: tuple[tuple[str, bytes | None], ...] = HEADERS_UNREADABLE
    with suppress(SystemError, UnicodeDecodeError):
        headers = tuple(_headers_of(message) or ())
    partition, offset = message.partition() or 0, message.offset() or 0
    return Record(topic, partition, offset, message.timestamp()[1], message.key(), message.value(), headers)


def poll(consumer: Consumer, at_most: int) -> list[Message]:
    """What is here, as soon as something is: asked for a batch, the client waits for a full one while there is time."""
    first = consumer.consume(1, _POLL_SECONDS)
    return first + consumer.consume(at_most - 1, 0) if first else first


def read_ranges(
    kafka: Mapping[str, str], topic: str, ranges: Mapping[int, tuple[int, int]], at_most: int
) -> Iterator[tuple[list[Record], set[int]]]:
    """The records of `ranges`, offsets [first, next) by partition, at most so many at a time.

    Each part comes with the partitions of which nothing is left, markers and aborted records at their ends included;
    a part may be empty while the brokers are slow. Raises KafkaException where a range is no longer in the log.
    """
    left = {partition: ends for partition, (first, ends) in ranges.items() if first < ends}
    defaults = {**CONSUMER, "group.id": "counterfoil-rebuild", "enable.partition.eof": True}
    consumer = Consumer(client_config(kafka, "counterfoil-rebuild", defaults))
    try:
        consumer.assign([TopicPartition(topic, partition, ranges[partition][0]) for partition in left])
        while left:
            records, done = [], set()
            for message in poll(consumer, at_most):
                partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
                end = left.get(partition, 0)
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    _refuse(error)
                elif error is None and offset < end:
                    records.append(record_of(message, topic))
                if offset + (error is None) >= end:  # where it is no record, the partition's end
                    done.add(partition)
            done &= left.keys()
            for partition in done:
                del left[partition]
            if done and left:
                consumer.incremental_unassign([TopicPartition(topic, partition) for partition in sorted(done)])
            yield records, done
    finally:
        consumer.close()


def _refuse(error: KafkaError) -> None:
    """What the client retries by itself is no reason to end."""
    if error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise KafkaException(error)
