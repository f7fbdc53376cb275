"""The control topic read: every order from the beginning, and since when nothing else can have been known.

One partition, assigned and read by each client for itself; the group that Kafka's client wants a name for is never
joined, and no offset is committed.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from counterfoil.errors import ControlAway, SettingsError
from counterfoil.kafka import client_config
from counterfoil.orders import NotAnOrder, Order, StandingOrders, read_order

logger = logging.getLogger("counterfoil")

GROUP = "counterfoil-control"
_POLL_SECONDS = 0.1
# Linux's clock that goes on while the machine sleeps, where there is one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Seconds by a clock that never goes back, and counts the time for which a machine slept."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class ControlLog:
    """A reader of the topic, from its beginning. Of one thread; of no use in a forked child.

    `checked_at` is the last moment, by `now()`, of which a broker has said that nothing follows what was read; None
    until the end was reached once. `problem` says what is wrong, as long as something is. Raises SettingsError.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, client_id: str) -> None:
        self.checked_at: float | None = None
        self._problem: str | None = None
        self._connection_problem: str | None = None  # says more than that no broker is up
        self._topic = topic
        self._consumer = _new_consumer(kafka, client_id, self._note)
        self._next_offset: int | None = None
        self._awaited: tuple[int, float] | None = None  # an end that was asked for, and when
        self._asked_at = now()

    def start(self, timeout_seconds: float) -> Self:
        """Begin at the beginning, once the end was asked for: a fetch that finds nothing waits before it says so."""
        self._begin()
        self.ask(timeout_seconds)
        self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        return self

    @property
    def problem(self) -> str | None:
        """Why it can't be read, since it was last read to its end."""
        return self._problem and (self._connection_problem or self._problem)

    def _begin(self) -> None:
        self._next_offset = self._awaited = None
        self._asked_at = now()

    def next_order(self, seconds: float) -> Order | None:
        """The next order, if one comes within `seconds`; what is none is passed over with a line in the log."""
        asked_at = now()
        message = self._consumer.poll(seconds)
        if message is None:
            self._asked_at = asked_at  # whatever comes from now on, was sent later than that
            return None
        error = message.error()
        if error is None:
            self._reached((message.offset() or 0) + 1)
            return self._order_in(message)
        if error.code() == KafkaError._PARTITION_EOF:
            self._reached(message.offset() or 0)
            self._checked(self._asked_at)
        elif error.str() != self._problem:
            self._problem = error.str()
            logger.warning("the control topic %s can't be read: %s", self._topic, self._problem)
        return None

    def ask(self, timeout_seconds: float) -> None:
        """Ask the leader for the topic's ends, for it says nothing by itself while nothing happens.

        The answer waits behind a fetch that waits for an order, half a second at most.
        """
        asked_at = now()
        try:
            begin, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=timeout_seconds)
        except KafkaException as error:
            self._problem = str(error.args[0].str())
            return
        if self._next_offset is not None and end < self._next_offset:
            logger.warning("the control topic %s is another one than before; it is read anew", self._topic)
            self._begin()
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        self._awaited = (end, asked_at)
        if begin == end:
            self._reached(end)
        elif self._next_offset is not None:
            self._reached(self._next_offset)

    def close(self) -> None:
        """Let go of the brokers."""
        self._consumer.close()

    def _reached(self, offset: int) -> None:
        self._next_offset = offset
        if self._awaited is not None and offset >= self._awaited[0]:
            self._checked(self._awaited[1])
            self._awaited = None

    def _checked(self, moment: float) -> None:
        if self.checked_at is None or moment > self.checked_at:
            self.checked_at = moment
        self._problem = self._connection_problem = None

    def _note(self, error: KafkaError) -> None:
        """librdkafka's error_cb."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._connection_problem = error.str()

    def _order_in(self, message: Message) -> Order | None:
        headers: Any = message.headers() or ()
        try:
            order = read_order(message.key(), message.value(), headers)
        except NotAnOrder as error:
            logger.warning("offset %s of the control topic %s is no order: %s", message.offset(), self._topic, error)
            return None
        if order.is_unread:
            logger.warning("order %s on %s is of a newer version, and obeyed unread", order.order_id.hex(), order.scope)
        return order


def _new_consumer(kafka: Mapping[str, str], client_id: str, failed: Callable[[KafkaError], None]) -> Consumer:
    ours = {
        "error_cb": failed,
        "group.id": GROUP,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    }
    defaults = {
        "fetch.wait.max.ms": 500,
        "queued.min.messages": 1000,
        "reconnect.backoff.max.ms": 2_000,
    }
    try:
        return Consumer(client_config(kafka, client_id, defaults) | ours)
    except (KafkaException, TypeError, ValueError) as error:
        raise SettingsError(f"Kafka's client refuses a setting of COUNTERFOIL_KAFKA__…: {error}") from error


def read_standing_orders(kafka: Mapping[str, str], topic: str, timeout_seconds: float) -> StandingOrders:
    """All orders on the topic now.

    Raises ControlAway when its end is not reached in time.
    """
    orders = StandingOrders()
    deadline = now() + timeout_seconds
    with closing(ControlLog(kafka, topic, "counterfoil-orders")) as log:
        log.start(timeout_seconds)
        while log.checked_at is None:
            if now() > deadline:
                raise ControlAway(
                    f"the control topic {topic} was not read to its end within {timeout_seconds:g} s "
                    f"({log.problem or 'no answer'}); check the brokers, and run `counterfoil topics`"
                )
            order = log.next_order(_POLL_SECONDS)
            if order is not None:
                orders.add(order)
    return orders
