"""Rebuilds the projections beside the live ones, while ingest goes on, and swaps them in.

Events come from the log, and from the bytes that the store keeps where the log no longer has them, through the same
reader and the same folds as ingest. Records are read, and never touched: what is a dead letter stays one.
"""

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

from psycopg import sql
from psycopg.errors import LockNotAvailable
from psycopg.rows import DictRow

from counterfoil.failpoints import pass_by
from counterfoil.framing import Framing
from counterfoil_consumers.digest import Digest, digest
from counterfoil_consumers.errors import BadRecord, BrokersAway, RebuildStopped
from counterfoil_consumers.letters import Refused
from counterfoil_consumers.log_reader import read_ranges
from counterfoil_consumers.projection import Claim, Move, move_offsets, project
from counterfoil_consumers.records import Reader, Record, Window, stored_record
from counterfoil_consumers.shadow import CONSUMER, LIVE, SHADOW, Shadow
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, batches, connect, fetch_one, queries, snapshot
from counterfoil_consumers.topics import admin_client, check, cluster_id, start_offsets
from counterfoil_consumers.window import read_window
from counterfoil_schemas import Topic

Origin = Literal["both", "log", "store"]

_BATCH = 5_000
_STUCK_SECONDS = 60.0
_NO_LIMITS = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}


class _Place(NamedTuple):
    """A partition of a source."""

    source_id: int
    partition: int


class _Range(NamedTuple):
    """Offsets [first, next)."""

    first_offset: int
    next_offset: int

    @property
    def size(self) -> int:
        return max(0, self.next_offset - self.first_offset)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many events came from where; the digests are None where nothing was compared."""

    from_store: int
    from_log: int
    live: Digest | None = None
    rebuilt: Digest | None = None


@dataclass(frozen=True, slots=True)
class _Log:
    """The topic as it is now: which source it is, and where its partitions begin."""

    source_id: int | None
    starts: Sequence[int]


class Rebuild:
    """One rebuild of a whole store. `dsn` logs in as a role that may act as owner, ingester and operator: the migrator.

    `origin` says where events are taken from: `both` takes from the store what the log no longer has, `store` all that
    is stored when it begins, `log` nothing. `tell` is given how many events are rebuilt, and of how many at most.
    """

    def __init__(
        self,
        *,
        kafka: Mapping[str, str],
        dsn: str,
        topic: Topic,
        framing: Framing,
        origin: Origin = "both",
        tell: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        self._kafka = kafka
        self._dsn = dsn
        self._topic = topic
        self._framing = framing
        self._origin = origin
        self._tell = tell
        self._from_store = self._from_log = self._total = 0
        self._known_log: _Log | None = None

    def run(self) -> Rebuilt:
        """Rebuild and swap; one that was cut short goes on where it was.

        Raises RebuildStopped, StoreError, StoreAway, TopicsError and BrokersAway; the live projections are as they were
        then.
        """
        with self._begun() as shadow:
            shadow.refuse_dependents()
            self._advance()
            shadow.keep_cut()
            shadow.analyze()
            shadow.swap(self._catch_up)
        return Rebuilt(self._from_store, self._from_log)

    def compare(self) -> Rebuilt:
        """Rebuild, hold the digests of both against each other at equal offsets, and swap nothing.

        Raises as `run` does.
        """
        with self._begun() as shadow:
            self._advance()
            with self._snapshot() as live:
                self._advance_to(live)
                shadow.keep_cut()
                of_live = digest(live, LIVE)
            with self._snapshot() as rebuilt:
                of_rebuilt = digest(rebuilt, SHADOW)
            shadow.drop()
        return Rebuilt(self._from_store, self._from_log, of_live, of_rebuilt)

    @contextmanager
    def _begun(self) -> Iterator[Shadow]:
        with (
            closing(connect(self._dsn, "ingester", application="rebuild", **_NO_LIMITS)) as turn,
            turn.transaction(),
            closing(self._framing),
        ):
            try:
                turn.execute(_named("take_turn"))
            except LockNotAvailable as error:
                raise RebuildStopped("another rebuild of this store is running; wait for it, or end it") from error
            with (
                closing(Shadow(self._dsn)) as shadow,
                closing(
                    connect(self._dsn, "ingester", application="rebuild", search_path=SHADOW, **_NO_LIMITS)
                ) as self._writer,
            ):
                shadow.prepare()
                self._introduce(read_window(self._writer))
                yield shadow

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with closing(connect(self._dsn, "operator", application="rebuild", **_NO_LIMITS)) as reader, snapshot(reader):
            yield reader

    def _introduce(self, window: Window) -> None:
        """Claim every partition that was ever ingested, for what is rebuilt of it."""
        owner = f"{platform.node()}:{os.getpid()}:{time.monotonic_ns()}"
        self._sources: dict[int, Source] = {}
        self._readers: dict[int, Reader] = {}
        self._unreading: dict[int, Reader] = {}  # for what was kept unread, and is no body of its schema either
        self._claims: dict[_Place, Claim] = {}
        for row in self._writer.execute(_named("read_places"), {"rebuild": CONSUMER}).fetchall():
            self._claim(row, owner)
            source_id = row["source_id"]
            self._sources[source_id] = Source(
                CONSUMER, row["cluster_id"], row["topic_id"], source_id, "", row["fact_oid"]
            )
            self._readers[source_id] = Reader(source_id, window, self._framing)
            self._unreading[source_id] = Reader(source_id, window, self._framing, reads_bodies=False)

    def _claim(self, row: DictRow, owner: str) -> None:
        params = {name: row[name] for name in ("cluster_id", "topic_id", "topic", "partition")}
        own = fetch_one(
            self._writer,
            queries("ingest")["claim_offset"],
            {**params, "consumer": CONSUMER, "owner": owner, "start": 0},
        )
        place = _Place(row["source_id"], row["partition"])
        self._claims[place] = Claim(own["next_offset"], own["epoch"], own["next_offset"])

    def _advance(self) -> None:
        """Come to where the live projections are now."""
        with self._snapshot() as live:
            self._advance_to(live)

    def _advance_to(self, live: Connection) -> None:
        ranges = self._left(live)
        self._unread = {tuple(row.values()) for row in live.execute(_named("find_unread"))}
        of_store = {place: own for place, one in ranges.items() if (own := self._of_store(place, one)).size}
        self._total = self._from_store + self._from_log + sum(one.size for one in ranges.values())
        if of_store:
            self._read_store(live, of_store)
        self._read_log({place: _Range(self._claims[place].next_offset, end) for place, (_, end) in ranges.items()})

    def _catch_up(self) -> None:
        """Come to where the live projections are, from the log alone: the live ones may be locked."""
        ranges = self._left(self._writer)
        if any(self._gone_from_log(place, one).size for place, one in ranges.items()):
            raise RebuildStopped("events that the log no longer has were ingested meanwhile; run it again")
        self._read_log(ranges)

    def _left(self, live: Connection) -> dict[_Place, _Range]:
        left = {}
        for row in live.execute(_named("read_places"), {"rebuild": CONSUMER}).fetchall():
            place = _Place(row["source_id"], row["partition"])
            if place not in self._claims:
                raise RebuildStopped(f"partition {place.partition} of {row['topic']} was begun meanwhile; run it again")
            one = _Range(self._claims[place].next_offset, row["next_offset"])
            if one.size:
                left[place] = one
        return left

    def _of_store(self, place: _Place, one: _Range) -> _Range:
        """The part of it that is to be read from the store: the log has it no more, or it is asked for."""
        return one if self._origin == "store" and one.first_offset == 0 else self._gone_from_log(place, one)

    def _gone_from_log(self, place: _Place, one: _Range) -> _Range:
        log = self._log()
        if place.source_id != log.source_id:
            return one
        return _Range(one.first_offset, min(one.next_offset, max(one.first_offset, log.starts[place.partition])))

    def _log(self) -> _Log:
        """Asked for once, and not at all where the store has everything."""
        if self._known_log is None:
            admin = admin_client(self._kafka)
            topic_id, cluster = check(admin, self._topic).topic_id, cluster_id(admin)
            found = [s.source_id for s in self._sources.values() if (s.cluster_id, s.topic_id) == (cluster, topic_id)]
            starts = start_offsets(admin, self._topic.name, self._topic.partitions)
            self._known_log = _Log(found[0] if found else None, starts)
        return self._known_log

    def _read_store(self, live: Connection, ranges: Mapping[_Place, _Range]) -> None:
        """Cut short, it is read again from its beginning: what is there already changes nothing."""
        params = _as_params(ranges)
        with live.cursor("archive") as cursor:
            cursor.itersize = _BATCH
            cursor.execute(_named("read_archive"), params)
            for rows in batches(cursor, _BATCH):
                if self._origin == "log":
                    row = rows[0]
                    raise RebuildStopped(
                        f"the log no longer has offset {row['offset']} of partition {row['partition']}, whose event is "
                        "stored; rebuild from both"
                    )
                self._write_archived(rows)
        with self._writer.transaction():
            self._writer.execute(_named("copy_duplicates"), params)
            for source_id, moves in self._moves(ranges).items():
                move_offsets(self._writer, self._sources[source_id], moves)
        self._settle(ranges)

    def _write_archived(self, rows: Sequence[DictRow]) -> None:
        by_source: defaultdict[int, list[Record]] = defaultdict(list)
        for row in rows:
            by_source[row["source_id"]].append(stored_record(row))
        for source_id, records in by_source.items():
            self._project(source_id, records, _refuse)
            pass_by("rebuild.after_archived")
        self._from_store += len(rows)
        self._tell(self._from_store + self._from_log, self._total)

    def _read_log(self, ranges: Mapping[_Place, _Range]) -> None:
        if not ranges:
            return
        source_id = self._log().source_id
        of_log = {place.partition: one for place, one in ranges.items() if place.source_id == source_id and one.size}
        heard_at = time.monotonic()
        for records, done in read_ranges(self._kafka, self._topic.name, of_log, _BATCH):
            ends = {record.partition: record.offset + 1 for record in records}
            ends |= {partition: of_log[partition].next_offset for partition in done}
            if ends:
                self._write_logged(source_id or 0, records, ends)
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _STUCK_SECONDS:
                raise BrokersAway(f"nothing came from {self._topic.name} for {_STUCK_SECONDS:.0f} s")

    def _write_logged(self, source_id: int, records: Sequence[Record], ends: Mapping[int, int]) -> None:
        ranges = {_Place(source_id, partition): _Range(0, end) for partition, end in ends.items()}
        moves = self._moves(ranges)[source_id]
        letters = self._letters(source_id, records)
        kept = [record for record in records if (record.partition, record.offset) not in letters]

        def finish(late: Sequence[Refused]) -> None:
            _refuse(late)
            move_offsets(self._writer, self._sources[source_id], moves)

        self._project(source_id, kept, finish)
        pass_by("rebuild.after_logged")
        self._settle(ranges)
        self._from_log += len(kept)
        self._tell(self._from_store + self._from_log, self._total)

    def _letters(self, source_id: int, records: Sequence[Record]) -> set[tuple[int, int]]:
        offsets: defaultdict[int, list[int]] = defaultdict(list)
        for record in records:
            offsets[record.partition].append(record.offset)
        params = {
            "source_id": source_id,
            "partitions": list(offsets),
            "first_offsets": [own[0] for own in offsets.values()],
            "last_offsets": [own[-1] for own in offsets.values()],
        }
        found = self._writer.execute(_named("find_letters"), params)
        return {(row["partition"], row["offset"]) for row in found}

    def _project(self, source_id: int, records: Sequence[Record], finish: Callable[[Sequence[Refused]], None]) -> None:
        rows = []
        for record in records:
            try:
                rows.append(self._readers[source_id].row(record))
            except BadRecord as reason:
                if (source_id, record.partition, record.offset) not in self._unread:
                    _refuse([Refused(record, reason)])
                rows.append(self._unreading[source_id].row(record))
        project(self._writer, self._sources[source_id], rows, finish)

    def _moves(self, ranges: Mapping[_Place, _Range]) -> dict[int, dict[int, Move]]:
        moves: defaultdict[int, dict[int, Move]] = defaultdict(dict)
        for place, one in ranges.items():
            moves[place.source_id][place.partition] = Move(self._claims[place], one.next_offset, None)
        return moves

    def _settle(self, ranges: Mapping[_Place, _Range]) -> None:
        for place, one in ranges.items():
            self._claims[place].next_offset = one.next_offset


def _named(name: str) -> sql.SQL:
    return queries("rebuild")[name]


def _as_params(ranges: Mapping[_Place, _Range]) -> dict[str, list[int]]:
    return {
        "source_ids": [place.source_id for place in ranges],
        "partitions": [place.partition for place in ranges],
        "first_offsets": [one.first_offset for one in ranges.values()],
        "next_offsets": [one.next_offset for one in ranges.values()],
    }


def _refuse(late: Sequence[Refused]) -> None:
    """What was ingested must be ingestible."""
    for one in late[:1]:
        record = one.record
        raise RebuildStopped(
            f"the record at offset {record.offset} of partition {record.partition} of {record.topic} was ingested, and "
            f"this version can't store it: {one.reason}; nothing was swapped"
        )
