"""The way from this process to the brokers: one producer, one thread that polls it, exact counts.

A message that `produce()` took is not a message in the log; every one ends as acknowledged or as
undelivered, and a caller may wait for one of them.
"""

import contextlib
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException, Message

from counterfoil.kafka import new_producer

logger = logging.getLogger("counterfoil")

_POLL_SECONDS = 0.1
_FULL_QUEUE_WAIT_SECONDS = 0.01


class Delivery:
    """Sends values to one topic. Thread-safe; of no use in a forked child.

    `acknowledged` and `undelivered` count messages.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, client_id: str) -> None:
        self.topic = topic
        self.acknowledged = 0
        self.undelivered = 0
        self._producer = new_producer(kafka, client_id)
        self._counting = threading.Lock()  # reports come in whichever thread polls or flushes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="counterfoil-delivery", daemon=True)

    def start(self) -> None:
        """Start the thread that serves delivery reports."""
        self._thread.start()

    def send(
        self, key: bytes, value: bytes, headers: list[tuple[str, str | bytes | None]], wait_seconds: float
    ) -> "Future[None]":
        """Hand one message to the producer; the future ends when the brokers have answered.

        A full queue is waited for up to `wait_seconds`. The future's exception is a KafkaException or,
        when the queue stayed full, a BufferError.
        """
        future: Future[None] = Future()

        def reported(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                with self._counting:
                    self.acknowledged += 1
                future.set_result(None)
            else:
                self._failed(future, KafkaException(error))

        waited = 0.0
        while True:
            try:
                self._producer.produce(self.topic, value, key, on_delivery=reported, headers=headers)
            except BufferError as error:
                if waited >= wait_seconds:
                    self._failed(future, error)
                    return future
                waited += _FULL_QUEUE_WAIT_SECONDS
                self._stopping.wait(_FULL_QUEUE_WAIT_SECONDS)
            except KafkaException as error:
                self._failed(future, error)
                return future
            else:
                return future

    def close(self, timeout_seconds: float) -> int:
        """Wait for all answers, stop, and return how many messages were never acknowledged."""
        unanswered = self._producer.flush(timeout_seconds)
        self._stopping.set()
        self._thread.join(timeout_seconds)
        if unanswered:
            self._producer.purge()
            self._producer.flush(1)  # reports every purged message as undelivered
        return self.undelivered

    def flush(self, timeout_seconds: float) -> int:
        """Wait for answers and return how many messages still have none."""
        return int(self._producer.flush(timeout_seconds))

    def _failed(self, future: "Future[None]", error: Exception) -> None:
        with self._counting:
            self.undelivered += 1
        future.set_exception(error)
        with contextlib.suppress(Exception):  # a logging handler of the user's would end the polling thread
            logger.error("an event was not acknowledged by Kafka: %s", error)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(_POLL_SECONDS)
