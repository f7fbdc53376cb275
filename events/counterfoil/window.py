"""What librdkafka holds of ours: a bounded number of events, handed over and not yet answered for, in order."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from counterfoil.home import Home
from counterfoil.kafka import delivery_error, new_producer
from counterfoil.spool import Headers, Spooled
from counterfoil.tally import Numbers

_OVERHEAD_BYTES = 300
_METADATA_SECONDS = 0.5
# What no retry would change: the brokers will never take this one.
_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError._INVALID_ARG,
}


class Outgoing:
    """One event on its way. `future` ends when it is acknowledged or, if that is enough, on disk."""

    __slots__ = (
        "future",
        "handed_at",
        "headers",
        "home",
        "is_spooled",
        "n",
        "numbers",
        "reports",
        "seq",
        "speaks_of",
        "spool_is_enough",
        "value",
    )  # fmt: skip

    def __init__(self, home: Home, numbers: Numbers, seq: int, headers: Headers, value: bytes) -> None:
        self.home = home
        self.numbers = numbers
        self.seq = seq
        self.headers = headers
        self.value = value
        self.n = 0
        self.handed_at = 0.0
        self.is_spooled = False
        self.future: Future[None] | None = None
        self.spool_is_enough = False
        self.speaks_of: tuple[Numbers, int, int] | None = None  # the numbers that a gap event gives up
        self.reports: list[Report] = []  # of the window that has it

    @property
    def key(self) -> bytes:
        """Of its task."""
        return self.numbers.key

    @property
    def place(self) -> tuple[int, int]:
        """Its home and its place there."""
        return id(self.home), self.n

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.value) + _OVERHEAD_BYTES

    def report(self, error: KafkaError | None, message: Message) -> None:
        """librdkafka's delivery report."""
        self.reports.append((self, delivery_error(error, message)))

    def settle(self, error: Exception | None = None, *, of_spool: bool = False) -> None:
        """Whoever waits is told, if what the disk says is enough or the brokers said it."""
        if self.future is None or (of_spool and not self.spool_is_enough):
            return
        with contextlib.suppress(InvalidStateError):  # it was settled by the other way
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)

    def spooled(self) -> Spooled:
        """As it goes to disk."""
        return Spooled(self.n, self.key, self.seq, self.headers, self.value)


Report = tuple[Outgoing, KafkaError | None]


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """Most events, and most bytes of them, that librdkafka holds."""

    events: int
    size_bytes: int


class Window:
    """Not thread-safe: its owner holds a lock, but for `poll`."""

    def __init__(self, kafka: Mapping[str, str], topic: str, client_id: str, limits: WindowLimits) -> None:
        self._kafka = kafka
        self._topic = topic
        self._client_id = client_id
        self._limits = limits
        self._held: dict[tuple[int, int], Outgoing] = {}
        self._bytes = 0
        self._is_fatal = False
        self._reports: list[Report] = []
        self.cluster_id: str | None = None  # once a broker has said it
        self._producer: Producer | None = self._new_producer()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(self._held.values())

    def __contains__(self, out: Outgoing) -> bool:
        return out.place in self._held

    @property
    def room(self) -> int:
        """How many more events it takes."""
        return self._limits.events - len(self._held) if self._bytes < self._limits.size_bytes else 0

    def oldest_at(self) -> float:
        """When the oldest event was handed over, by the monotonic clock."""
        return next(iter(self._held.values())).handed_at

    def hand_over(self, out: Outgoing) -> bool:
        """Give one to librdkafka; False if it takes none now.

        Raises KafkaException for one that it never takes.
        """
        out.reports = self._reports
        if self._producer is None:
            return False
        try:
            self._producer.produce(self._topic, out.value, out.key, on_delivery=out.report, headers=list(out.headers))
        except BufferError:
            return False
        except KafkaException as error:
            if is_refusal(error.args[0]):
                raise
            self._is_fatal = True
            return False
        out.handed_at = time.monotonic()
        self._held[out.place] = out
        self._bytes += out.size
        return True

    def take_out(self, out: Outgoing, error: KafkaError | None) -> bool:
        """It was answered for; False if that was known."""
        if self._held.pop(out.place, None) is None:
            return False
        self._bytes -= out.size
        if error is not None and error.fatal():
            self._is_fatal = True
        return True

    def poll(self, seconds: float) -> "list[Report]":
        """What became of events: each with its error, if it met one. Of one thread, and without the lock."""
        producer = self._producer
        if producer is not None:
            producer.poll(seconds)
        # Librdkafka's callbacks run in here alone, so nobody adds to the list meanwhile.
        reports = self._reports.copy()
        self._reports.clear()
        return reports

    def renew_if_fatal(self) -> None:
        """After a fatal error an idempotent producer sends nothing any more (KIP-360): another takes its place."""
        if self._is_fatal:
            self._producer = self._new_producer()
            self._is_fatal = False

    def is_topic_known(self) -> bool:
        """Whether a broker has told of the topic and of leaders for all of it.

        librdkafka loses the order of what it was given before that.
        """
        if self._producer is None:
            return False
        try:
            cluster = self._producer.list_topics(self._topic, timeout=_METADATA_SECONDS)
            topic = cluster.topics[self._topic]
        except (KafkaException, KeyError):
            return False
        self.cluster_id = cluster.cluster_id
        partitions = topic.partitions.values()
        return topic.error is None and bool(partitions) and all(one.leader >= 0 for one in partitions)

    def abandon(self, timeout_seconds: float) -> None:
        """Send nothing more, and let librdkafka go; what is under way may land yet.

        Now, not when cycles are collected: that might be in a forked child. And in a thread that need not come back: in
        a child that was forked while some thread resolved a name, every other one hangs that does (glibc, getaddrinfo).
        """
        if self._producer is None:
            return
        self._producer.purge()
        self._producer.poll(0)
        held, self._producer = [self._producer], None
        letting_go = threading.Thread(target=held.clear, name="counterfoil-letting-go", daemon=True)
        letting_go.start()
        letting_go.join(timeout_seconds)

    def _new_producer(self) -> Producer:
        return new_producer(
            self._kafka,
            self._client_id,
            {
                "message.timeout.ms": 0,  # we decide who waits, and for how long
                "reconnect.backoff.max.ms": 2_000,
                "queue.buffering.max.messages": 2 * self._limits.events,
                "queue.buffering.max.kbytes": max(1024, 2 * self._limits.size_bytes // 1024),
            },
        )


def is_refusal(error: KafkaError) -> bool:
    """Whether the brokers, or librdkafka, will never take that event."""
    return error.code() in _REFUSED
