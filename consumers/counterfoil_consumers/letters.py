"""Dead letters of records: set aside with their bytes, and on their way to the topic of dead letters."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from counterfoil.ids import new_id, read_partition_key
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.outbox import headers_to_json
from counterfoil_consumers.records import Record, Row
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, queries

# Of one statement: a parameter of Postgres holds 1 GB at most, and one record may hold 100 MB.
_MOST_LETTERS, _MOST_BYTES = 500, 64_000_000


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was set aside, and why."""

    record: Record
    reason: BadRecord
    row: Row | None = None


def set_aside(connection: Connection, source: Source, refused: Iterable[Refused]) -> None:
    """Put records into `dead_letter` and into the outbox, each once however often it is read."""
    for part in _parts(refused):
        ids = [new_id() for _ in part]
        records = [one.record for one in part]
        params = {
            "source_id": source.source_id,
            "placed_by": source.consumer,
            "topic": source.dead_letters_topic,
            "letter_ids": [letter_id.hex() for letter_id in ids],
            "tenants": [one.reason.tenant for one in part],
            "letter_classes": [one.reason.letter_class for one in part],
            "reasons": [str(one.reason).replace("\x00", "\ufffd") for one in part],
            "partitions": [record.partition for record in records],
            "offsets": [record.offset for record in records],
            "record_timestamps": [None if one.row is None else float(one.record.appended_at) for one in part],
            "keys": [record.key for record in records],
            "values": [record.value for record in records],
            "headers": [headers_to_json(record.headers) for record in records],
            "task_ids": [_task_id(one) for one in part],
            "effect_ids": [_effect_id(one.row) for one in part],
            "outbox_keys": [_outbox_key(record) for record in records],
            "outbox_headers": [
                headers_to_json([*one.record.headers, *_letter_headers(letter_id, one)])
                for letter_id, one in zip(ids, part, strict=True)
            ],
        }
        connection.execute(queries("ingest")["set_aside"], params)


def _parts(refused: Iterable[Refused]) -> Iterator[Sequence[Refused]]:
    part: list[Refused] = []
    size = 0
    for one in refused:
        own = len(one.record.value or b"")
        if part and (len(part) == _MOST_LETTERS or size + own > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += own
    if part:
        yield part


def _task_id(refused: Refused) -> str | None:
    return None if refused.row is None else read_partition_key(refused.record.key or b"")[1].hex()


def _effect_id(row: Row | None) -> str | None:
    return None if row is None or row.effect_id is None else row.effect_id.hex()


def _outbox_key(record: Record) -> bytes:
    return record.key or f"{record.topic}/{record.partition}/{record.offset}".encode()


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
