"""A topic, read from where we stood up to the end that it had when we were asked: no group, nothing committed.

Positions are ours alone. What happened to the log in between (made anew, cut off by retention, truncated, widened) is
told by its id, its offsets and its partitions, and then it is read anew.
"""

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not by __all__
    AdminClient,
    OffsetSpec,
)

from counterfoil.kafka import client_config
from counterfoil_consumers.log_reader import CONSUMER, poll, record_of
from counterfoil_reconcilers.targets.kafka_table import Table
from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble

_REQUEST_SECONDS: Final = 5.0
_STALL_SECONDS: Final = 8.0
_AT_MOST: Final = 2_000  # messages of one poll
_TRIES: Final = 3
_REFUSALS: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_LOST: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_MISSING: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_OURS: Final[Mapping[str, Any]] = {
    **CONSUMER,
    "enable.partition.eof": True,
    "enable.auto.offset.store": False,
    "allow.auto.create.topics": False,
    "queued.max.messages.kbytes": 16_384,  # what is fetched ahead while nobody asks
}


@dataclass(frozen=True)
class Extent:
    """A topic as the brokers have it now: its id, and each partition's first and end offset for committed reads."""

    topic_id: str
    starts: Sequence[int]
    ends: Sequence[int]


class Brokers:
    """One target's brokers: what is asked of them besides messages, and what they complain of."""

    def __init__(self, target: str, settings: Mapping[str, str]) -> None:
        self.target = target
        self._settings = settings
        self._complaint: KafkaError | None = None
        self._admin: AdminClient | None = None

    def close(self) -> None:
        """Let go of connections."""
        self._admin = None

    def consumer(self) -> Consumer:
        """A consumer of no group; the id is one that the client wants and the brokers never see joined."""
        return Consumer(self._config({"group.id": "counterfoil-target"}, _OURS))

    def extent(self, topic: str) -> Extent | None:
        """The topic as it is; None if there is none.

        Raises TargetUnavailable.
        """
        try:
            described = self._client().describe_topics(TopicCollection([topic]), request_timeout=_REQUEST_SECONDS)
            found = described[topic].result()
            count = len(found.partitions)
            starts = self._offsets(topic, count, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # stub gap
            ends = self._offsets(topic, count, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # stub gap
        except KafkaException as error:
            if error.args[0].code() in _MISSING:
                return None
            raise self.unavailable(error.args[0]) from error
        self._complaint = None
        return Extent(str(found.topic_id), starts, ends)

    def offsets_at(self, topic: str, partitions: int, millis: int) -> Sequence[int | None]:
        """The first offset of each partition that is not older; None where all are.

        Raises TargetUnavailable.
        """
        try:
            found = self._offsets(topic, partitions, OffsetSpec.for_timestamp(millis))
        except KafkaException as error:
            raise self.unavailable(error.args[0]) from error
        return [offset if offset >= 0 else None for offset in found]

    def topics(self) -> Sequence[str]:
        """The names of the topics that may be seen.

        Raises TargetUnavailable.
        """
        try:
            return sorted(self._client().list_topics(timeout=_REQUEST_SECONDS).topics)
        except KafkaException as error:
            raise self.unavailable(error.args[0]) from error

    def unavailable(self, error: KafkaError) -> TargetUnavailable:
        """Why there is no answer. A refused login shows in a request as a time-out alone; clients tell it beside."""
        if self._admin is not None:
            self._admin.poll(0)
        complaint, self._complaint = self._complaint, None
        told = complaint if complaint is not None and error.code() not in _REFUSALS else error
        trouble: Trouble = "refused" if told.code() in _REFUSALS else "away"
        if error.code() == KafkaError.THROTTLING_QUOTA_EXCEEDED:
            trouble = "throttled"
        advice = "check the login and its READ and DESCRIBE rights" if trouble == "refused" else "it is asked again"
        return TargetUnavailable(self.target, f"{told.str().splitlines()[0]}; {advice}", trouble=trouble)

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._config({}, {}))
        return self._admin

    def _config(self, before: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        given = client_config(self._settings, "counterfoil-target", before)
        return given | dict(above) | {"error_cb": self._hear}

    def _hear(self, error: KafkaError) -> None:
        if error.code() in _REFUSALS:
            self._complaint = error

    def _offsets(self, topic: str, partitions: int, spec: OffsetSpec) -> list[int]:
        asked = {TopicPartition(topic, partition): spec for partition in range(partitions)}
        futures = self._client().list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_REQUEST_SECONDS
        )
        found = {partition.partition: future.result().offset for partition, future in futures.items()}
        return [int(found[partition]) for partition in range(partitions)]


@dataclass
class Reading:
    """One run over one log, from its start or the window's: what it found, and where it stands by partition.

    `since_millis`: partitions of which the beginning is not known, and since when they are. `waiting`: messages that
    have come, and that the table has not taken yet.
    """

    topic_id: str
    consumer: Consumer
    table: Table
    next: dict[int, int]
    since_millis: dict[int, int]
    waiting: deque[Message] = field(default_factory=deque)

    @property
    def since(self) -> dt.datetime | None:
        """Since when all that was written is known, by the messages' own times; None: since ever."""
        known = max(self.since_millis.values(), default=None)
        return None if known is None else dt.datetime.fromtimestamp(known / 1000, dt.UTC)

    def is_of(self, extent: Extent) -> bool:
        """Whether it can go on: the same topic, no partition more, nothing lost before it nor cut off behind it."""
        if self.topic_id != extent.topic_id or len(self.next) != len(extent.ends):
            return False
        return all(extent.starts[p] <= next_ <= extent.ends[p] for p, next_ in self.next.items())


@dataclass(frozen=True)
class Limits:
    """How much of a log is kept, and how long one call may read. `keep` None: all that the log holds."""

    keep: dt.timedelta | None
    most_bytes: int
    call_seconds: float = 30.0


class _LogLost(Exception):  # it leaves no module
    """The log is not the one that was read."""


class TopicLog:
    """Keeps a table up to date with a topic. Not for use by several threads at once."""

    def __init__(self, brokers: Brokers, topic: str, new_table: Callable[[], Table], limits: Limits) -> None:
        self._brokers = brokers
        self._topic = topic
        self._new_table = new_table
        self._limits = limits
        self._reading: Reading | None = None

    def close(self) -> None:
        """Forget everything; the next call reads anew."""
        if self._reading is not None:
            self._reading.consumer.close()
            self._reading = None

    @property
    def since(self) -> dt.datetime | None:
        """Since when all that was written is known; None: since ever, or nothing was read yet."""
        return None if self._reading is None else self._reading.since

    def catch_up(self) -> Reading:
        """Everything that was committed when this was called, and maybe more.

        Raises TargetUnavailable.
        """
        for _ in range(_TRIES):
            extent = self._extent()
            reading = self._reading_of(extent)
            try:
                self._read_to(extent.ends, reading)
            except _LogLost:
                self.close()
                continue
            self._bound(reading)
            if self._extent().topic_id == reading.topic_id:
                return reading
        raise self._unavailable("the topic is made anew or cut off faster than it can be read; raise its retention")

    def _extent(self) -> Extent:
        extent = self._brokers.extent(self._topic)
        if extent is None:
            self.close()
            raise self._unavailable(
                f"there is no topic {self._topic}, or it may not be seen; run the contract check", "unreadable"
            )
        return extent

    def _reading_of(self, extent: Extent) -> Reading:
        """The one under way, or another where it is not of this log any more."""
        old = self._reading
        if old is not None and old.is_of(extent):
            return old
        self.close()
        is_anew = old is not None and old.topic_id != extent.topic_id
        self._reading = self._begin(extent, is_anew)
        return self._reading

    def _begin(self, extent: Extent, is_anew: bool) -> Reading:
        """Read from the log's start or the window's. What a topic of the same name held before is not known."""
        now = _now_millis()
        starts, since = list(extent.starts), {}
        for partition, start in enumerate(extent.starts):
            if start > 0 or is_anew:
                since[partition] = now  # the first message tells better
        if self._limits.keep is not None:
            horizon = now - _millis(self._limits.keep)
            found = self._brokers.offsets_at(self._topic, len(starts), horizon)
            for partition, offset in enumerate(found):
                if (offset if offset is not None else extent.ends[partition]) > starts[partition]:
                    starts[partition] = extent.ends[partition] if offset is None else offset
                    since[partition] = horizon
        consumer = self._brokers.consumer()
        consumer.assign([TopicPartition(self._topic, partition, start) for partition, start in enumerate(starts)])
        return Reading(extent.topic_id, consumer, self._new_table(), dict(enumerate(starts)), since)

    def _read_to(self, ends: Sequence[int], reading: Reading) -> None:
        started = stirred = time.monotonic()
        while behind := sum(max(0, end - reading.next[partition]) for partition, end in enumerate(ends)):
            self._bound(reading)
            before = dict(reading.next)
            if not reading.waiting:
                reading.waiting.extend(poll(reading.consumer, _AT_MOST))
            while reading.waiting:
                self._take(reading.waiting[0], reading)
                reading.waiting.popleft()
            now = time.monotonic()
            stirred = now if reading.next != before else stirred
            if now - stirred > _STALL_SECONDS:
                raise self._brokers.unavailable(KafkaError(KafkaError._TIMED_OUT, "no message comes"))
            if now - started > self._limits.call_seconds:
                raise self._unavailable(
                    f"topic {self._topic} is not read to its end yet, {behind} offsets are left; the next pass goes on"
                )

    def _take(self, message: Message, reading: Reading) -> None:
        partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
        if error is None:
            record = record_of(message, self._topic)
            reading.table.take(record)
            reading.next[partition] = offset + 1
            if partition in reading.since_millis and record.appended_at > 0:  # -1 where a message has no time
                reading.since_millis[partition] = min(reading.since_millis[partition], record.appended_at)
        elif error.code() == KafkaError._PARTITION_EOF:  # past markers and aborted messages, too
            reading.next[partition] = max(reading.next[partition], offset)
        elif error.code() in _LOST or error.code() in _MISSING:
            raise _LogLost
        elif error.code() in _REFUSALS or error.fatal():
            self.close()
            raise self._brokers.unavailable(error)

    def _bound(self, reading: Reading) -> None:
        """Let go of what is older than the window, and refuse to hold more than was allowed."""
        if self._limits.keep is not None:
            horizon = _now_millis() - _millis(self._limits.keep)
            if reading.table.forget_before(horizon):
                for partition in reading.next:
                    reading.since_millis[partition] = max(reading.since_millis.get(partition, 0), horizon)
        if reading.table.held_bytes > self._limits.most_bytes:
            raise self._unavailable(
                f"what is kept of topic {self._topic} has more than {self._limits.most_bytes // 10**6} MB; lower "
                "keep_hours or raise keep_megabytes in the contract",
                "unreadable",
            )

    def _unavailable(self, reason: str, trouble: Trouble = "away") -> TargetUnavailable:
        return TargetUnavailable(self._brokers.target, reason, trouble=trouble)


def _millis(span: dt.timedelta) -> int:
    return int(span.total_seconds() * 1000)


def _now_millis() -> int:
    return int(time.time() * 1000)
