"""Dead letters of records: set aside with their bytes, and on their way to the topic of dead letters."""

from dataclasses import dataclass

from counterfoil.ids import new_id, read_partition_key
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.outbox import headers_to_json
from counterfoil_consumers.records import Record, Row
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, queries


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was set aside, and why."""

    record: Record
    reason: BadRecord
    row: Row | None = None


def set_aside(connection: Connection, source: Source, refused: Refused) -> None:
    """Put a record into `dead_letter` and into the outbox, once however often it is read."""
    record, row = refused.record, refused.row
    letter_id = new_id()
    connection.execute(
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
            "headers": headers_to_json(record.headers),
            "task_id": None if row is None else read_partition_key(record.key or b"")[1].hex(),
            "effect_id": None if row is None or row.effect_id is None else row.effect_id.hex(),
            "placed_by": source.consumer,
            "topic": source.dead_letters_topic,
            "outbox_key": record.key or f"{record.topic}/{record.partition}/{record.offset}".encode(),
            "outbox_headers": headers_to_json([*record.headers, *_letter_headers(letter_id, refused)]),
        },
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
