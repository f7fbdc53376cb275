"""The ingest loop: poll, decode, write, commit.

Offsets live in Postgres, in the transaction of the rows; a partition is claimed with the next epoch when
it is assigned, and moved by exact compare-and-set, so a zombie writes nothing. Kafka's own commit is a
hint for lag tools.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg.errors import QueryCanceled, UndefinedTable

from counterfoil.errors import RegistryError
from counterfoil.failpoints import pass_by
from counterfoil.framing import SINGLE_OBJECT, Framing
from counterfoil.kafka import client_config
from counterfoil_consumers import metrics
from counterfoil_consumers.assignment import Assignment
from counterfoil_consumers.decoding import Decoder
from counterfoil_consumers.errors import BrokersAway, Fenced, IngestStopped, StoreAway
from counterfoil_consumers.letters import Refused
from counterfoil_consumers.log_reader import CONSUMER, poll, record_of
from counterfoil_consumers.migrations import refuse_unfit
from counterfoil_consumers.projection import Claim, Gap, Move, Written, write_batch
from counterfoil_consumers.records import Record, Row
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import WENT_AWAY, Connection, connect, fetch_one, queries
from counterfoil_consumers.topics import admin_client, check, cluster_id, end_offsets
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil.ingest")

_BATCH = 5_000
_LAG_EVERY_SECONDS = 5.0
_WINDOW_EVERY_SECONDS = 3600.0
_RECONNECT_SECONDS = 0.5
_GIVE_BACK_SECONDS = 10.0  # that the store may be away before other members get the partitions
_REGISTRY_SECONDS = 1.0
# Each is below the session timeout, so that who is given a stalled member's partitions need not wait for its locks.
_LIMITS = {
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "5s",
    "statement_timeout": "8s",
    "tcp_user_timeout": "8s",
    "work_mem": "64MB",  # a batch is sorted in memory, not on disk
}
GroupProtocol = Literal["classic", "consumer"]
# With KIP-848's protocol the brokers decide both (group.consumer.session.timeout.ms).
_GROUP: Mapping[GroupProtocol, Mapping[str, str | int]] = {
    "classic": {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 2_000,
    },
    "consumer": {"group.protocol": "consumer"},
}


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is to be written; `ends` are the next offsets by partition, `last` the records there."""

    rows: list[Row]
    refused: list[Refused]
    gaps: list[Gap]
    ends: dict[int, int]
    last: Mapping[int, Record]


class Ingest:
    """One member of the consumer group `consumer`. Run it in one thread; it writes in a second one.

    `admit_tenants` registers tenants at first sight; otherwise the records of an unknown one are foreign. `framing`
    knows the schemas behind ids; it is of this thread, and closed at the end. All members of a group have the same
    `group_protocol` (consumer is KIP-848's, for brokers from 4.0).
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
        framing: Framing = SINGLE_OBJECT,
        group_protocol: GroupProtocol = "classic",
    ) -> None:
        self._kafka = kafka
        self._dsn = dsn
        self._admit = admit_tenants
        self._framing = framing
        self._declared = topics(profile, topic_prefix)
        self._topic = self._declared["events"]
        self._group = topic_prefix + consumer
        self._group_protocol = group_protocol
        self._batch_size = _BATCH
        self._has_failed = False
        self._may_all_be_new = True
        self._in_flight: tuple[_Batch, Future[Written]] | None = None

    def run(
        self,
        stopping: threading.Event,
        *,
        until: Sequence[int] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Ingest until `stopping` is set, or until every partition has reached `until` (end offsets in order).

        `beat` is called whenever the loop comes round, and after each record that can't be stored.

        Raises IngestStopped when going on would lose or repeat events, TopicsError, StoreError and
        SettingsError; StoreAway and BrokersAway at the start only (later they are waited for). A Schema Registry
        that is away is always waited for.
        """
        admin = admin_client(self._kafka)
        topic_id = check(admin, self._topic).topic_id
        where = {"consumer": self._group, "cluster_id": cluster_id(admin), "topic_id": topic_id}
        self._where = {**where, "topic": self._topic.name}
        self._beat = beat
        self._assignment = Assignment(admin, self._topic.name, self._topic.partitions, where)
        self._store = self._connect()
        defaults = {**CONSUMER, **_GROUP[self._group_protocol], "group.id": self._group}
        defaults["enable.partition.eof"] = until is not None  # the last offset may hold a marker, and no record
        consumer = Consumer(client_config(self._kafka, "counterfoil-ingest", defaults))
        self._writer = ThreadPoolExecutor(1, "ingest-writer")
        self._subscribe(consumer)
        self._chores = (
            _Chore(_LAG_EVERY_SECONDS, lambda: self._measure_lag(admin)),
            _Chore(_WINDOW_EVERY_SECONDS, self._open_window),
        )
        try:
            while not stopping.is_set() and not (until is not None and self._is_stored(until)):
                self._step(consumer, poll(consumer, self._batch_size), stopping)
                beat()
            self._step(consumer, [], stopping)
        except BaseException:
            self._has_failed = True
            raise
        finally:
            consumer.close()
            self._writer.shutdown()
            self._store.close()
            self._framing.close()

    def _subscribe(self, consumer: Consumer) -> None:
        consumer.subscribe(
            [self._topic.name], on_assign=self._assignment.give, on_revoke=self._take_away, on_lost=self._lose
        )

    def end_offsets(self) -> list[int]:
        """The events topic's end offsets now, for `run(until=...)`."""
        return end_offsets(admin_client(self._kafka), self._topic.name, self._topic.partitions)

    def _step(self, consumer: Consumer, messages: list[Message], stopping: threading.Event) -> None:
        """A batch is written while the next one is read and decoded."""
        try:
            batch = self._decode(*self._next_records(messages))
            self._settle(consumer)
            self._begin(consumer, batch)
            if not messages or self._assignment.may_claim() or any(chore.is_due for chore in self._chores):
                self._settle(consumer)
                self._assignment.claim_given(consumer, self._store)
                for chore in self._chores:
                    chore.do_when_due()
        except Fenced as error:
            metrics.FENCED.inc()
            logger.warning("%s; it is claimed again if it is still given to us", error)
            self._assignment.give_up_claims(consumer)
        except WENT_AWAY as error:
            logger.warning("the store went away: %s; connecting again", str(error).splitlines()[0])
            metrics.STORE_RETRIES.inc()
            if isinstance(error, QueryCanceled):
                self._batch_size = max(1, self._batch_size // 2)  # as it was it would take too long again
            self._assignment.give_up_claims(consumer)
            self._reconnect(consumer, stopping)
        except UndefinedTable as error:
            if not self._decoder.open_window():
                raise  # it was decoded for leaves that are there
            logger.warning("the window is opened anew, a leaf was dropped: %s", str(error).splitlines()[0])
            self._assignment.give_up_claims(consumer)
        except RegistryError as error:
            logger.warning("records wait for the Schema Registry: %s", error)
            metrics.REGISTRY_RETRIES.inc()
            self._assignment.give_up_claims(consumer)
            stopping.wait(_REGISTRY_SECONDS)

    def _next_records(self, messages: Sequence[Message]) -> tuple[list[Record], list[Gap]]:
        """The records of partitions that we hold, from where each was read last; a rebalance may leave others here."""
        records: list[Record] = []
        gaps: list[Gap] = []
        claims, topic = self._assignment.claims, self._topic.name
        for message in messages:
            partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
            claim = claims.get(partition)
            if error is not None and not self._is_end(error, partition):
                continue
            if claim is None:
                continue
            if offset < claim.read_offset:
                if error is None and offset == claim.next_offset - 1:
                    self._refuse_another(claim, partition, message.value())
                continue
            if offset > claim.read_offset:
                gaps.append(Gap(partition, claim.read_offset, offset))
                metrics.OFFSETS_EMPTY.inc(offset - claim.read_offset)
                claim.read_offset = offset
            if error is None:
                records.append(record_of(message, topic))
                claim.read_offset = offset + 1
        return records, gaps

    def _begin(self, consumer: Consumer, batch: _Batch) -> None:
        """Have it written by the other thread, which alone uses the store until `_settle`."""
        if batch.ends:
            claims, waiting = self._assignment.claims, self._waiting(consumer)
            moves = {
                partition: Move(claims[partition], end, _sha256_before(end, batch.last.get(partition)), waiting)
                for partition, end in batch.ends.items()
            }
            self._in_flight = (batch, self._writer.submit(self._write, batch, moves))

    def _waiting(self, consumer: Consumer) -> int:
        """How many records of our partitions we have still to read, as far as the last fetches said."""
        waiting = 0
        for partition, claim in self._assignment.claims.items():
            _, high = consumer.get_watermark_offsets(TopicPartition(self._topic.name, partition), cached=True)
            waiting += max(0, int(high) - claim.read_offset)  # less than that where nothing was fetched yet
        return waiting

    def _write(self, batch: _Batch, moves: Mapping[int, Move]) -> Written:
        with metrics.BATCH_SECONDS.time():
            written = write_batch(
                self._store,
                self._source,
                batch.rows,
                batch.refused,
                moves,
                batch.gaps,
                may_all_be_new=self._may_all_be_new,
            )
        self._may_all_be_new = written.stored == len(batch.rows)  # repetitions come in swarms
        return written

    def _settle(self, consumer: Consumer) -> None:
        """Wait for the batch that is being written, if one is; raises what ended its writing."""
        if self._in_flight is None:
            return
        (batch, writing), self._in_flight = self._in_flight, None
        written = writing.result()
        pass_by("ingest.after_store")
        claims = self._assignment.claims
        for partition in batch.ends.keys() & claims.keys():  # some may have been taken away meanwhile
            claims[partition].next_offset = batch.ends[partition]
        hints = [TopicPartition(self._topic.name, partition, claim.next_offset) for partition, claim in claims.items()]
        if hints:
            consumer.commit(offsets=hints, asynchronous=True)
        pass_by("ingest.after_hint")
        self._batch_size = min(_BATCH, 2 * self._batch_size)
        self._count(written, batch.rows)

    def _take_away(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group takes partitions back: they go to others once what is being written of them is committed."""
        self._wait_for_writer()
        pass_by("ingest.on_revoke")
        if not self._has_failed:
            with suppress(*WENT_AWAY):
                self._assignment.leave(self._store, partitions)
        self._assignment.take_away(consumer, partitions)

    def _lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others may have had them for a while; what is being written of them is fenced if they have."""
        metrics.PARTITIONS_LOST.inc(len(partitions))
        logger.warning("lost %d partitions: the group did not hear from this member in time", len(partitions))
        self._assignment.take_away(consumer, partitions)

    def _decode(self, records: Sequence[Record], gaps: list[Gap]) -> _Batch:
        if records:
            pass_by("ingest.after_poll")
        rows, refused = self._decoder.decode(records)
        if records:
            pass_by("ingest.after_decode")
        last = {record.partition: record for record in records}
        claims = self._assignment.claims
        ends = {partition: claims[partition].read_offset for partition in last.keys() | {gap.partition for gap in gaps}}
        return _Batch(rows, refused, gaps, ends, last)

    def _wait_for_writer(self) -> None:
        """The store is the other thread's until then."""
        if self._in_flight is not None:
            wait([self._in_flight[1]])

    @staticmethod
    def _count(written: Written, rows: Sequence[Row]) -> None:
        metrics.EVENTS_STORED.inc(written.stored)
        metrics.EVENTS_REPEATED.inc(written.repeated)
        metrics.EVENTS_UNREAD.inc(sum(not row.is_read for row in rows))
        for refused in written.set_aside:
            metrics.RECORDS_SET_ASIDE.labels(refused.reason.letter_class).inc()
            logger.warning(
                "set aside partition %d offset %d: %s", refused.record.partition, refused.record.offset, refused.reason
            )

    def _connect(self) -> Connection:
        connection = connect(self._dsn, "ingester", application="ingest", **_LIMITS)
        try:
            self._introduce(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, WENT_AWAY):
                raise StoreAway(f"the store went away: {str(error).splitlines()[0]}") from error
            raise
        return connection

    def _reconnect(self, consumer: Consumer, stopping: threading.Event) -> None:
        """A member whose store stays away leaves the group until it is back: another one may still reach it."""
        self._store.close()
        give_back_at, is_member = time.monotonic() + _GIVE_BACK_SECONDS, True
        while not stopping.is_set():
            try:
                self._store = self._connect()
                self._assignment.claim_at_once()
                break
            except StoreAway as error:
                logger.warning("%s", error)
            if is_member and time.monotonic() >= give_back_at:
                consumer.unsubscribe()
                is_member = False
                logger.warning("left the group: other members get the partitions until the store is back")
            consumer.poll(0 if is_member else _RECONNECT_SECONDS)
            self._beat()
            stopping.wait(_RECONNECT_SECONDS if is_member else 0)
        if not is_member:
            self._subscribe(consumer)

    def _introduce(self, connection: Connection) -> None:
        named = queries("ingest")
        refuse_unfit(connection)
        self._refuse_other_topic(connection)
        connection.execute(named["add_source"], self._where)
        found = fetch_one(connection, named["find_source"], self._where)
        where = self._where
        self._source = Source(
            consumer=where["consumer"],
            cluster_id=where["cluster_id"],
            topic_id=where["topic_id"],
            source_id=found["source_id"],
            dead_letters_topic=self._declared["dead_letters"].name,
            fact_oid=found["fact_oid"],
        )
        self._decoder = Decoder(
            connection,
            self._assignment,
            found["source_id"],
            self._framing,
            admit=self._admit,
            wait=self._wait_for_writer,
            beat=self._beat,
        )

    def _open_window(self) -> None:
        self._decoder.open_window()

    def _refuse_other_topic(self, connection: Connection) -> None:
        others = connection.execute(queries("ingest")["find_other_topic_ids"], self._where).fetchall()
        if others:
            raise IngestStopped(
                f"topic {self._topic.name} is not the one that was ingested before: "
                f"its id is {self._where['topic_id']} and was {others[0]['topic_id']}, so it was deleted and "
                "made anew; if what it still held may be lost, put that on record with `counterfoil offsets retire`"
            )

    def _refuse_another(self, claim: Claim, partition: int, value: bytes | None) -> None:
        """The record that was ingested last must stand where it stood."""
        expected, claim.last_sha256 = claim.last_sha256, None
        if expected is not None and hashlib.sha256(value or b"").digest() != expected:
            raise IngestStopped(
                f"partition {partition} of {self._topic.name} holds another record at offset {claim.next_offset - 1} "
                "than the one that was ingested from there: the log was truncated or restored from an older state, and "
                "has grown again; restore it, or ingest it under another topic_prefix"
            )

    def _is_end(self, error: KafkaError, partition: int) -> bool:
        """Whether it says that the partition ends there, for now; raises what can't be gone on from."""
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # the only name librdkafka gives it
            raise IngestStopped(
                f"partition {partition} of {self._topic.name} no longer has the stored offset "
                f"({error.str()}): run `counterfoil offsets list`"
            )
        if error.fatal():
            raise KafkaException(error)
        logger.warning("Kafka: %s", error.str())
        return False

    def _is_stored(self, until: Sequence[int]) -> bool:
        """Whether the store has reached these end offsets, by whichever member of the group."""
        if self.has_reached(until):
            return True
        if not self._assignment.joined or self._in_flight is not None:  # else the store is the other thread's
            return False
        rows = self._store.execute(queries("ingest")["read_offsets"], self._where).fetchall()
        stored = {row["partition"]: row["next_offset"] for row in rows}
        return all(stored.get(partition, 0) >= end for partition, end in enumerate(until))

    def has_reached(self, until: Sequence[int]) -> bool:
        """Whether every partition of these end offsets is stored by this member."""
        return all(
            end == 0 or (partition in self._assignment.claims and self._assignment.claims[partition].next_offset >= end)
            for partition, end in enumerate(until)
        )

    def _measure_lag(self, admin: AdminClient) -> None:
        try:
            ends = end_offsets(admin, self._topic.name, self._topic.partitions)
        except BrokersAway as error:
            logger.warning("%s", error)
            return
        metrics.LAG.clear()
        for partition, claim in self._assignment.claims.items():
            metrics.LAG.labels(str(partition)).set(max(0, ends[partition] - claim.next_offset))


class _Chore:
    """Something to do now and then."""

    def __init__(self, every_seconds: float, do: Callable[[], object]) -> None:
        self._every_seconds = every_seconds
        self._do = do
        self._due = time.monotonic() + every_seconds

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def do_when_due(self) -> None:
        if self.is_due:
            self._due = time.monotonic() + self._every_seconds
            self._do()


def _sha256_before(end: int, last: Record | None) -> bytes | None:
    if last is None or last.offset + 1 < end:
        return None
    return hashlib.sha256(last.value or b"").digest()
