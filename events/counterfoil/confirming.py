"""Sends a few records and waits for the brokers' word on each: for what people give, who wait for it."""

from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from counterfoil.kafka import delivery_error, new_producer

Headers = list[tuple[str, str | bytes | None]]

_FLUSH_GRACE_SECONDS = 2.0


class ConfirmedSender:
    """Sends through one producer, made at first use. Not thread-safe.

    `timeout_seconds` is how long the brokers may take for what is sent at once.
    """

    def __init__(self, kafka: Mapping[str, str], name: str, timeout_seconds: float) -> None:
        self._kafka = kafka
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._producer: Producer | None = None

    def send(self, records: Iterable[tuple[str, bytes, bytes]], headers: Headers) -> str | None:
        """Send (topic, key, value) each; why not all of them are acknowledged, or None."""
        if self._producer is None:
            limits = {"message.timeout.ms": int(self._timeout_seconds * 1000)}
            self._producer = new_producer(self._kafka, self._name, limits)
        problems: list[str] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if problem := delivery_error(error, message):
                problems.append(problem.str())

        try:
            for topic, key, value in records:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
        except (KafkaException, BufferError) as error:
            problems.append(str(error))
        if self._producer.flush(self._timeout_seconds + _FLUSH_GRACE_SECONDS):
            problems.append("no answer")
        return problems[0] if problems else None
