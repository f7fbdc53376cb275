"""Writes one batch: rows, folds, dead letters and offsets, all in one transaction or not at all.

New rows are copied straight into the partitions they belong to. A batch in which an id may stand already is told apart
first; where that shows only when Postgres refuses the copy, the copy is taken back and the batch told apart then.

No statement goes through libpq's pipeline mode: it spares 1 ms of a small batch, but a process that is stopped before
its Sync is not "idle in transaction" to Postgres, and no timeout before PostgreSQL 17 would ever end its locks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable, UniqueViolation

from counterfoil.failpoints import pass_by
from counterfoil_consumers.binary_copy import HEADER, ID_FIELD, TEXT, TRAILER, UUID, Items
from counterfoil_consumers.errors import BadRecord, Fenced
from counterfoil_consumers.letters import Refused, set_aside
from counterfoil_consumers.records import Row
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_consumers.suspicion import Suspicion

_ASTRAY = "event_astray_all"
# SQLSTATE classes that say the data is at fault: data exception, integrity, program limit.
_PERMANENT = ("22", "23", "54")
_TELLS_OF_AN_EFFECT = ("tool_intent", "tool_result")
_TRIES = 3
_PARTS = 16  # of a large batch, so that most of it is written only once more


@dataclass(slots=True)
class Claim:
    """This owner's hold on one partition: exactly what it last wrote, and the offset that it reads next.

    `last_sha256` is of the record before, as long as it is to be held against the log's.
    """

    next_offset: int
    epoch: int
    read_offset: int
    suspicion: Suspicion | None = None
    last_sha256: bytes | None = None

    @property
    def first_offset(self) -> int:
        """Where to begin reading."""
        return self.next_offset - (self.last_sha256 is not None)


class Move(NamedTuple):
    """How far a claim's partition moves; `last_sha256` is of the value of the record before, if one stands there.

    `waiting` is how many records its owner then has before it, of all its partitions.
    """

    claim: Claim
    to_offset: int
    last_sha256: bytes | None
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets of a partition, [first, next), at which no record stands."""

    partition: int
    first_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: consumed = stored + repeated + set aside."""

    stored: int
    repeated: int
    set_aside: tuple[Refused, ...]


class _Stored(NamedTuple):
    """An event that has its row, or is about to get it."""

    retention_class: str
    digest: bytes
    place: tuple[int, int, int] | None  # source, partition and offset; None in this batch


@dataclass(slots=True)
class _Told:
    """A batch told apart: what is new, what repeats a stored event, what has its id and other content."""

    new: Sequence[Row]
    repeated: Sequence[Row]
    refused: Sequence[Refused]


def write_batch(
    connection: Connection,
    source: Source,
    rows: Sequence[Row],
    refused: Iterable[Refused],
    moves: Mapping[int, Move],
    gaps: Sequence[Gap] = (),
    *,
    may_all_be_new: bool = True,
) -> Written:
    """Store `rows`, set `refused` aside, note `gaps` and move the offsets of `moves`, by partition.

    Where not all rows are likely to be new, they are told apart first. Raises Fenced when one of the claims is no
    longer ours; nothing was written then.
    """
    refused = tuple(refused)

    def finish(late: Sequence[Refused]) -> None:
        open_checks(connection, rows)
        set_aside(connection, source, (*refused, *late))
        if gaps:
            _note_gaps(connection, source, gaps)
        pass_by("ingest.before_offset")
        move_offsets(connection, source, moves)
        pass_by("ingest.before_commit")

    written = project(connection, source, rows, finish, may_all_be_new=may_all_be_new)
    return Written(written.stored, written.repeated, (*refused, *written.set_aside))


def project(
    connection: Connection,
    source: Source,
    rows: Sequence[Row],
    finish: Callable[[Sequence[Refused]], None],
    *,
    may_all_be_new: bool = True,
) -> Written:
    """Store and fold `rows`, and have `finish` do the rest of the transaction; it is given those that Postgres refuses.

    The projections are those of the connection's search_path.
    """
    if may_all_be_new and _may_be_new(connection, rows):
        try:
            with connection.transaction():
                _copy(connection, rows)
                pass_by("ingest.after_copy")
                fold(connection, source, rows)
                finish(())
            return Written(len(rows), 0, ())
        except LockNotAvailable:  # a leaf is being dropped: what only repeats need not wait for it
            pass
        except psycopg.Error as error:
            if not _is_permanent(error):
                raise
    known = _known(connection, rows)  # by itself: it reads every leaf, and whoever drops one waits for its readers
    with connection.transaction():
        landed, late = _land_apart(connection, source, rows, known)
        finish(late)
    return Written(landed, len(rows) - landed - len(late), tuple(late))


def _may_be_new(connection: Connection, rows: Sequence[Row]) -> bool:
    """Whether it is worth trying: no id twice, and none that might stand in the table where Postgres would not look."""
    if len({row.identity for row in rows}) < len(rows) or any(row.leaf is None for row in rows):
        return False
    return not fetch_one(connection, queries("ingest")["may_stand_elsewhere"])["found"]


def _land_apart(
    connection: Connection, source: Source, rows: Sequence[Row], known: Mapping[bytes, _Stored]
) -> tuple[int, list[Refused]]:
    """Store what is new beside what is `known`; what Postgres refuses is cut up until the culprit stands alone."""
    if not rows:
        return 0, []
    try:
        return _tell_and_land(connection, source, rows, known)
    except psycopg.Error as error:
        if not _is_permanent(error):
            raise
        if len(rows) == 1:
            reason = BadRecord(f"the store refuses it: {str(error).splitlines()[0]}", tenant=rows[0].tenant)
            return 0, [Refused(rows[0].record, reason, rows[0])]
    size = -(-len(rows) // (_PARTS if len(rows) > 2 * _PARTS else 2))
    landed, refused = 0, []
    for at in range(0, len(rows), size):
        part, part_refused = _land_apart(connection, source, rows[at : at + size], known)
        landed += part
        refused += part_refused
    return landed, refused


def _tell_and_land(
    connection: Connection, source: Source, rows: Sequence[Row], known: Mapping[bytes, _Stored]
) -> tuple[int, list[Refused]]:
    for tries_left in reversed(range(_TRIES)):
        told = _tell_apart(source, rows, known)
        try:
            with connection.transaction():
                _copy(connection, told.new)
                fold(connection, source, told.new)
                _note_duplicates(connection, source, told.repeated)
        except UniqueViolation:  # stored meanwhile: from another partition, or in another part of the batch
            if not tries_left:
                raise
            known = _known(connection, rows)
        else:
            return len(told.new), list(told.refused)
    raise AssertionError("the last try returns or raises")


def _tell_apart(source: Source, rows: Sequence[Row], known: Mapping[bytes, _Stored]) -> _Told:
    """Of records with one id the one that is stored, or has the lowest offset, is the event."""
    events = dict(known)
    are_distinct = len({row.identity for row in rows}) == len(rows)
    if not are_distinct:
        rows = sorted(rows, key=lambda row: (row.record.partition, row.record.offset))
    new: list[Row] = []
    repeated: list[Row] = []
    refused: list[Refused] = []
    for row in rows:
        stored = events.get(row.identity)
        if stored is None:
            if not are_distinct:
                events[row.identity] = _Stored(row.retention_class, row.digest, None)
            new.append(row)
        elif (stored.retention_class, stored.digest) == (row.retention_class, row.digest):
            if stored.place != (source.source_id, row.record.partition, row.record.offset):  # else it is read again
                repeated.append(row)
        else:
            refused.append(_clash(row))
    return _Told(new, repeated, refused)


def _known(connection: Connection, rows: Sequence[Row]) -> dict[bytes, _Stored]:
    params = {
        "tenants": Items([row.identity[:-ID_FIELD] for row in rows], TEXT),
        "ids": Items([row.identity[-ID_FIELD:] for row in rows], UUID),
    }
    return {
        rows[found["place"] - 1].identity: _Stored(
            found["retention_class"],
            found["value_sha256"],
            (found["source_id"], found["partition"], found["offset"]),
        )
        for found in connection.execute(queries("ingest")["find_known"], params)
    }


def _copy(connection: Connection, rows: Sequence[Row]) -> None:
    leaves: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        leaves[row.leaf or _ASTRAY].append(row)
    if len(leaves) > 1:  # the first COPY may hold what whoever drops the leaf of the second waits for
        named = sql.SQL(", ").join(map(sql.Identifier, sorted(leaves)))
        connection.execute(queries("ingest")["lock_leaves"].format(leaves=named))
    for leaf, its in leaves.items():
        query = queries("ingest")["copy_events"].format(leaf=sql.Identifier(leaf))
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(b"".join((HEADER, *[row.copied for row in its], TRAILER)))


def fold(connection: Connection, source: Source, rows: Sequence[Row], *, are_counted: bool = False) -> None:
    """Fold `rows` into the projections.

    `are_counted` where the rows were stored, and folded as far as their envelopes go, before they could be read.
    """
    if rows:
        facts = Items([row.fact for row in rows], source.fact_oid)
        connection.execute(queries("ingest")["fold"], {"facts": facts, "are_counted": are_counted})


def open_checks(connection: Connection, rows: Sequence[Row]) -> None:
    """Have the reconciler look at the effects that `rows` tell of, once these are folded."""
    told = [row for row in rows if row.effect_id is not None and row.is_read and row.kind in _TELLS_OF_AN_EFFECT]
    if told:
        ids = [row.effect_id.hex() for row in told if row.effect_id is not None]
        params = {"tenants": [row.tenant for row in told], "effect_ids": ids}
        connection.execute(queries("ingest")["open_checks"], params)


def _note_duplicates(connection: Connection, source: Source, rows: Sequence[Row]) -> None:
    if not rows:
        return
    params = {
        "tenants": [row.tenant for row in rows],
        "source_ids": [source.source_id] * len(rows),
        "partitions": [row.record.partition for row in rows],
        "offsets": [row.record.offset for row in rows],
        "ids": [row.event_id.hex() for row in rows],
        "digests": [row.digest for row in rows],
    }
    connection.execute(queries("ingest")["note_duplicates"], params)


def _note_gaps(connection: Connection, source: Source, gaps: Sequence[Gap]) -> None:
    params = {
        "consumer": source.consumer,
        "source_id": source.source_id,
        "partitions": [gap.partition for gap in gaps],
        "first_offsets": [gap.first_offset for gap in gaps],
        "next_offsets": [gap.next_offset for gap in gaps],
    }
    connection.execute(queries("ingest")["note_gaps"], params)


def _is_permanent(error: psycopg.Error) -> bool:
    return (error.sqlstate or "")[:2] in _PERMANENT


def _clash(row: Row) -> Refused:
    reason = BadRecord(f"event {row.event_id.hex()} is stored already with other content", "conflict", row.tenant)
    return Refused(row.record, reason, row)


def move_offsets(connection: Connection, source: Source, moves: Mapping[int, Move]) -> None:
    """Move each partition from where its claim stands; raises Fenced where one is no longer ours."""
    if not moves:
        return
    params = {
        "consumer": source.consumer,
        "cluster_id": source.cluster_id,
        "topic_id": source.topic_id,
        "partitions": list(moves),
        "from_offsets": [move.claim.next_offset for move in moves.values()],
        "to_offsets": [move.to_offset for move in moves.values()],
        "epochs": [move.claim.epoch for move in moves.values()],
        "last_sha256s": [move.last_sha256 for move in moves.values()],
        "waiting": [move.waiting for move in moves.values()],
    }
    moved = {row["partition"] for row in connection.execute(queries("ingest")["move_offsets"], params)}
    for partition, (claim, *_) in moves.items():
        if partition not in moved:
            raise Fenced(
                f"partition {partition} is no longer ours at offset {claim.next_offset} and epoch {claim.epoch}; "
                "nothing of this batch was written"
            )
