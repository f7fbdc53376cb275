"""The ingest loop: poll, decode, write, commit.

Offsets live in Postgres, in the transaction of the rows; a partition is claimed with the next epoch when
it is assigned, and moved by exact compare-and-set, so a zombie writes nothing. Kafka's own commit is a
hint for lag tools.
"""

import datetime as dt
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from counterfoil.failpoints import pass_by
from counterfoil.kafka import client_config
from counterfoil_consumers import metrics
from counterfoil_consumers.errors import BadRecord, BrokersAway, Fenced, IngestStopped, StoreAway
from counterfoil_consumers.projection import Claim, Refused, Source, Written, make_staging, write_batch
from counterfoil_consumers.records import Record, Row, Window, row_of
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_consumers.topics import admin_client, check, cluster_id, end_offsets, start_offsets
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil.ingest")

_BATCH = 5_000
_POLL_SECONDS = 0.1
_LAG_EVERY_SECONDS = 5.0
_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
# The last is how a zombie learns, on waking, that Postgres ended its transaction; psycopg counts it as internal.
_STORE_WENT = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.IdleInTransactionSessionTimeout)
_MONTHS_BACK, _MONTHS_AHEAD = 13, 2
_CONSUMER = {
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "isolation.level": "read_committed",
    "session.timeout.ms": 45_000,
    "fetch.queue.backoff.ms": 5,  # the default, 1000, starves a fast consumer
    "fetch.wait.max.ms": 50,
}


class Ingest:
    """One member of the consumer group `consumer`. Run it in one thread.

    `admit_tenants` registers tenants at first sight; otherwise the records of an unknown one are foreign.
    """

    def __init__(
        self,
        *,
        kafka: Mapping[str, str],
        dsn: str,
        profile: str,
        topic_prefix: str = "",
        consumer: str = "counterfoil-ingest",
        admit_tenants: bool = False,
    ) -> None:
        self._kafka = kafka
        self._dsn = dsn
        self._admit = admit_tenants
        self._declared = topics(profile, topic_prefix)
        self._topic = self._declared["events"]
        self._group = topic_prefix + consumer
        self._owner = f"{platform.node()}:{os.getpid()}:{time.monotonic_ns()}"
        self._claims: dict[int, Claim] = {}
        self._tenants: set[str] = set()

    def run(
        self,
        stopping: threading.Event,
        *,
        until: Sequence[int] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Ingest until `stopping` is set, or until every partition has reached `until` (end offsets in order).

        `beat` is called whenever the loop comes round.

        Raises IngestStopped when going on would lose or repeat events, TopicsError, StoreError and
        SettingsError; StoreAway and BrokersAway at the start only (later they are waited for).
        """
        self._admin = admin_client(self._kafka)
        self._state = check(self._admin, self._topic)
        self._cluster_id = cluster_id(self._admin)
        self._store = self._connect()
        consumer = Consumer(client_config(self._kafka, "counterfoil-ingest", {**_CONSUMER, "group.id": self._group}))
        self._failure: Exception | None = None
        consumer.subscribe([self._topic.name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        lag_at = 0.0
        try:
            while not stopping.is_set() and not (until is not None and self.has_reached(until)):
                self._step(consumer, consumer.consume(_BATCH, _POLL_SECONDS), stopping)
                beat()
                if time.monotonic() >= lag_at:
                    lag_at = time.monotonic() + _LAG_EVERY_SECONDS
                    self._measure_lag()
        finally:
            consumer.close()
            self._store.close()

    def end_offsets(self) -> list[int]:
        """The events topic's end offsets now, for `run(until=...)`."""
        return end_offsets(admin_client(self._kafka), self._topic.name, self._topic.partitions)

    def _step(self, consumer: Consumer, messages: list[Message], stopping: threading.Event) -> None:
        if self._failure is not None:
            raise self._failure
        records = [self._record(message) for message in messages if not self._is_error(message)]
        records = [
            r for r in records if r.partition in self._claims and r.offset >= self._claims[r.partition].next_offset
        ]
        if not records:
            return
        try:
            self._write(records)
        except Fenced as error:
            metrics.FENCED.inc()
            logger.warning("%s; claiming again", error)
            self._reclaim(consumer, stopping)
        except _STORE_WENT as error:
            logger.warning("the store went away: %s; connecting again", str(error).splitlines()[0])
            metrics.STORE_RETRIES.inc()
            self._reclaim(consumer, stopping)
        else:
            pass_by("ingest.after_store")
            hints = [TopicPartition(self._topic.name, p, c.next_offset) for p, c in self._claims.items()]
            consumer.commit(offsets=hints, asynchronous=True)

    def _write(self, records: Sequence[Record]) -> None:
        with metrics.BATCH_SECONDS.time():
            rows, refused = self._decode(records)
            ends = {record.partition: record.offset + 1 for record in records}
            moves = {partition: (self._claims[partition], end) for partition, end in ends.items()}
            written = write_batch(self._store, self._source, rows, refused, moves)
        for partition, end in ends.items():
            self._claims[partition].next_offset = end
        self._count(written, rows)

    def _decode(self, records: Sequence[Record]) -> tuple[list[Row], list[Refused]]:
        rows: list[Row] = []
        refused: list[Refused] = []
        for record in records:
            try:
                rows.append(row_of(record, self._source.source_id, self._window))
            except BadRecord as reason:
                refused.append(Refused(record, reason))
        strangers = {row.event.tenant for row in rows} - self._tenants
        if strangers:
            self._meet(strangers)
            foreign = [row for row in rows if row.event.tenant not in self._tenants]
            rows = [row for row in rows if row.event.tenant in self._tenants]
            refused += [Refused(row.record, _foreign(row), row) for row in foreign]
        for one in refused:
            if one.reason.tenant not in self._tenants:
                one.reason.tenant = None  # only claimed: for operators alone
        return rows, refused

    def _meet(self, strangers: set[str]) -> None:
        named = queries("ingest")
        if self._admit:
            self._store.execute(named["admit_tenants"], {"names": sorted(strangers)})
        self._tenants = {row["tenant"] for row in self._store.execute(named["find_tenants"])}

    @staticmethod
    def _count(written: Written, rows: Sequence[Row]) -> None:
        metrics.EVENTS_STORED.inc(written.stored)
        metrics.EVENTS_REPEATED.inc(written.repeated)
        metrics.EVENTS_UNREAD.inc(sum(row.event.body is None for row in rows))
        for refused in written.set_aside:
            metrics.RECORDS_SET_ASIDE.labels(refused.reason.letter_class).inc()
            logger.warning(
                "set aside partition %d offset %d: %s", refused.record.partition, refused.record.offset, refused.reason
            )

    def _connect(self) -> Connection:
        connection = connect(self._dsn, "ingester", application="ingest")
        try:
            self._introduce(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _introduce(self, connection: Connection) -> None:
        named = queries("ingest")
        where = {"cluster_id": self._cluster_id, "topic_id": self._state.topic_id, "topic": self._topic.name}
        self._refuse_other_topic(connection, {**where, "consumer": self._group})
        make_staging(connection)
        connection.execute(named["open_window"], {"months_back": _MONTHS_BACK, "months_ahead": _MONTHS_AHEAD})
        connection.execute(named["add_source"], where)
        source_id = fetch_one(connection, named["find_source"], where)["source_id"]
        self._source = Source(
            self._group, self._cluster_id, self._state.topic_id, source_id, self._declared["dead_letters"].name
        )
        self._window = open_window(dt.datetime.now(dt.UTC))
        self._tenants = {row["tenant"] for row in connection.execute(named["find_tenants"])}

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            claimed = self._claim([partition.partition for partition in partitions])
        except Exception as error:  # noqa: BLE001  # raised again by the loop: librdkafka would swallow it here
            self._failure = error
            return
        consumer.incremental_assign(claimed)
        logger.info("assigned %s", ", ".join(f"{p.partition}@{p.offset}" for p in claimed) or "nothing")

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._claims.pop(partition.partition, None)
        consumer.incremental_unassign(partitions)

    def _claim(self, partitions: Sequence[int]) -> list[TopicPartition]:
        """Take the partitions over at their stored offsets, under the next epoch."""
        named = queries("ingest")
        starts = start_offsets(self._admin, self._topic.name, self._topic.partitions)
        ends = end_offsets(self._admin, self._topic.name, self._topic.partitions)
        where = {
            "consumer": self._group,
            "cluster_id": self._cluster_id,
            "topic_id": self._state.topic_id,
            "topic": self._topic.name,
            "owner": self._owner,
        }
        with self._store.transaction():
            for partition in partitions:
                params = {**where, "partition": partition, "start": starts[partition]}
                row = fetch_one(self._store, named["claim_offset"], params)
                claim = Claim(row["next_offset"], row["epoch"])
                _refuse_jump(self._topic.name, partition, claim.next_offset, starts[partition], ends[partition])
                self._claims[partition] = claim
        return [TopicPartition(self._topic.name, p, self._claims[p].next_offset) for p in partitions]

    def _refuse_other_topic(self, connection: Connection, where: Mapping[str, str]) -> None:
        others = connection.execute(queries("ingest")["find_other_topic_ids"], where).fetchall()
        if others:
            raise IngestStopped(
                f"topic {self._topic.name} is not the one that was ingested before: its id is {self._state.topic_id} "
                f"and was {others[0]['topic_id']}, so it was deleted and made anew; ingest it under another "
                "topic_prefix or another store"
            )

    def _reclaim(self, consumer: Consumer, stopping: threading.Event) -> None:
        """Start again from what is stored, as long as the group still gives us these partitions."""
        for attempt in range(1_000_000):
            held = sorted(self._claims)
            consumer.incremental_unassign([TopicPartition(self._topic.name, partition) for partition in held])
            try:
                self._store.close()
                self._store = self._connect()
                consumer.incremental_assign(self._claim(held))
            except (StoreAway, BrokersAway, *_STORE_WENT) as error:
                pause = _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)]
                logger.warning("claiming again in %g s: %s", pause, str(error).splitlines()[0])
                consumer.incremental_assign([])
                if stopping.wait(pause):
                    return
            else:
                return

    def _is_error(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # the only name librdkafka gives it
            raise IngestStopped(
                f"partition {message.partition()} of {self._topic.name} no longer has the stored offset: {error.str()}"
            )
        if error.fatal():
            raise KafkaException(error)
        logger.warning("Kafka: %s", error.str())
        return True

    @staticmethod
    def _record(message: Message) -> Record:
        _, milliseconds = message.timestamp()
        return Record(
            str(message.topic()),
            int(message.partition() or 0),
            int(message.offset() or 0),
            milliseconds,
            message.key(),
            message.value(),
            tuple(message.headers() or ()),  # type: ignore[arg-type]  # headers of a consumed message are pairs
        )

    def has_reached(self, until: Sequence[int]) -> bool:
        """Whether every partition of these end offsets is stored by this member."""
        return all(
            end == 0 or (partition in self._claims and self._claims[partition].next_offset >= end)
            for partition, end in enumerate(until)
        )

    def _measure_lag(self) -> None:
        try:
            ends = end_offsets(self._admin, self._topic.name, self._topic.partitions)
        except BrokersAway as error:
            logger.warning("%s", error)
            return
        for partition, claim in self._claims.items():
            metrics.LAG.labels(str(partition)).set(max(0, ends[partition] - claim.next_offset))


def open_window(now: dt.datetime) -> Window:
    """The ids that the monthly partitions of 13 months back to 2 ahead hold, as `open_partitions` makes them."""
    return Window(_month(now, -_MONTHS_BACK), _month(now, _MONTHS_AHEAD + 1))


def _month(now: dt.datetime, shift: int) -> int:
    months = now.year * 12 + now.month - 1 + shift
    return int(dt.datetime(months // 12, months % 12 + 1, 1, tzinfo=dt.UTC).timestamp() * 1000)


def _foreign(row: Row) -> BadRecord:
    return BadRecord(
        f"the tenant {row.event.tenant!r} is not registered; run `counterfoil tenant add {row.event.tenant}`", "foreign"
    )


def _refuse_jump(topic: str, partition: int, stored: int, start: int, end: int) -> None:
    where = f"partition {partition} of {topic}"
    if stored < start:
        raise IngestStopped(
            f"{where} begins at offset {start} and {stored} is stored: retention removed {start - stored} records "
            "before they were ingested; restore them, or accept the loss by setting ingest_offset by hand"
        )
    if stored > end:
        raise IngestStopped(
            f"{where} ends at offset {end} and {stored} is stored: the log is shorter than what was ingested from it, "
            "so it was restored from an older state or truncated; restore it, or ingest it under another topic_prefix"
        )
