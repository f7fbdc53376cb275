"""Writes one batch: rows, folds, dead letters and offsets, all in one transaction or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.types.json import Json

from counterfoil.failpoints import pass_by
from counterfoil.ids import new_id
from counterfoil_consumers import outbox
from counterfoil_consumers.binary_copy import HEADER, TRAILER
from counterfoil_consumers.errors import BadRecord, Fenced
from counterfoil_consumers.records import Record, Row
from counterfoil_consumers.store import Connection, queries

_FOLDS = (
    "fold_task",
    "fold_producer",
    "fold_producer_claim",
    "fold_effect",
    "fold_effect_resource",
    "fold_target_change",
)
# SQLSTATE classes that say the data is at fault: data exception, integrity, program limit.
_PERMANENT = ("22", "23", "54")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the records come from, and who stores them."""

    consumer: str
    cluster_id: str
    topic_id: str
    source_id: int
    dead_letters_topic: str


@dataclass(slots=True)
class Claim:
    """This owner's hold on one partition: exactly what it last wrote."""

    next_offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was set aside, and why."""

    record: Record
    reason: BadRecord
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: consumed = stored + repeated + set aside."""

    stored: int
    repeated: int
    set_aside: tuple[Refused, ...]


def make_staging(connection: Connection) -> None:
    """The temporary tables of this connection; once per connection."""
    connection.execute(queries("ingest")["make_staging"])


def write_batch(
    connection: Connection,
    source: Source,
    rows: Sequence[Row],
    refused: Iterable[Refused],
    moves: Mapping[int, tuple[Claim, int]],
) -> Written:
    """Store `rows`, set `refused` aside and move the offsets of `moves` (partition: claim, next offset).

    Raises Fenced when one of the claims is no longer ours; nothing was written then.
    """
    with connection.transaction():
        landed, late = _land(connection, rows, first=True)
        set_aside = (*refused, *late)
        for one in set_aside:
            _set_aside(connection, source, one)
        pass_by("ingest.before_offset")
        for partition, (claim, to_offset) in moves.items():
            _move(connection, source, partition, claim, to_offset)
        pass_by("ingest.before_commit")
    return Written(landed, len(rows) - landed - len(late), set_aside)


def _land(connection: Connection, rows: Sequence[Row], *, first: bool) -> tuple[int, list[Refused]]:
    """Store what can be stored; a batch that Postgres refuses is halved until the culprit stands alone."""
    if not rows:
        return 0, []
    try:
        with connection.transaction():
            return _stage_and_fold(connection, rows, first=first)
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in _PERMANENT:
            raise
        if len(rows) == 1:
            reason = BadRecord(f"the store refuses it: {str(error).splitlines()[0]}", tenant=rows[0].event.tenant)
            return 0, [Refused(rows[0].record, reason, rows[0])]
    middle = len(rows) // 2
    left, left_refused = _land(connection, rows[:middle], first=False)
    right, right_refused = _land(connection, rows[middle:], first=False)
    return left + right, left_refused + right_refused


def _stage_and_fold(connection: Connection, rows: Sequence[Row], *, first: bool) -> tuple[int, list[Refused]]:
    named = queries("ingest")
    if not first:
        connection.execute("TRUNCATE pg_temp.incoming, pg_temp.landed")
    with connection.cursor() as cursor:
        with cursor.copy(named["copy_incoming"]) as copy:
            copy.write(HEADER)
            copy.write(b"".join([row.copied for row in rows]))
            copy.write(TRAILER)
        landed = cursor.execute(named["land_events"]).rowcount
        refused: list[Refused] = []
        if landed < len(rows):
            cursor.execute(named["note_duplicates"])
            clashes = {(found["partition"], found["offset"]) for found in cursor.execute(named["find_conflicts"])}
            refused = [_clash(row) for row in rows if (row.record.partition, row.record.offset) in clashes]
        if landed:
            for fold in _FOLDS:
                cursor.execute(named[fold])
    return landed, refused


def _clash(row: Row) -> Refused:
    reason = BadRecord(
        f"event {row.event.event_id.hex()} is stored already with other content", "conflict", row.event.tenant
    )
    return Refused(row.record, reason, row)


def _set_aside(connection: Connection, source: Source, refused: Refused) -> None:
    record, row = refused.record, refused.row
    letter_id = new_id()
    placed = connection.execute(
        queries("ingest")["set_aside"],
        {
            "letter_id": letter_id.hex(),
            "tenant": refused.reason.tenant,
            "letter_class": refused.reason.letter_class,
            "reason": str(refused.reason).replace("\x00", "\ufffd"),
            "source_id": source.source_id,
            "partition": record.partition,
            "offset": record.offset,
            "record_timestamp": None if row is None else record.appended_at,
            "key": record.key,
            "value": record.value,
            "headers": Json([[name, None if item is None else item.hex()] for name, item in record.headers]),
            "task_id": None if row is None else row.event.task_id.hex(),
            "effect_id": None if row is None or row.event.effect_id is None else row.event.effect_id.hex(),
            "placed_by": source.consumer,
        },
    )
    if placed.rowcount == 0:
        return  # it has its letter already
    outbox.put(
        connection,
        topic=source.dead_letters_topic,
        key=record.key or f"{record.topic}/{record.partition}/{record.offset}".encode(),
        value=record.value,
        event_id=None,
        headers=[*record.headers, *_letter_headers(letter_id, refused)],
    )


def _letter_headers(letter_id: bytes, refused: Refused) -> list[tuple[str, bytes | None]]:
    """Kafka Connect's names for where a record came from and why it is here, and ours for the rest."""
    record = refused.record
    return [
        ("__connect.errors.topic", record.topic.encode()),
        ("__connect.errors.partition", str(record.partition).encode()),
        ("__connect.errors.offset", str(record.offset).encode()),
        ("__connect.errors.exception.message", str(refused.reason).encode("utf-8", "replace")),
        ("counterfoil-letter-id", letter_id.hex().encode()),
        ("counterfoil-letter-class", refused.reason.letter_class.encode()),
    ]


def _move(connection: Connection, source: Source, partition: int, claim: Claim, to_offset: int) -> None:
    moved = connection.execute(
        queries("ingest")["move_offset"],
        {
            "consumer": source.consumer,
            "cluster_id": source.cluster_id,
            "topic_id": source.topic_id,
            "partition": partition,
            "from_offset": claim.next_offset,
            "to_offset": to_offset,
            "epoch": claim.epoch,
        },
    )
    if moved.rowcount != 1:
        raise Fenced(
            f"partition {partition} is no longer ours at offset {claim.next_offset} and epoch {claim.epoch}; "
            "nothing of this batch was written"
        )
