"""One Kafka record to one row of the store, or the reason why not. No I/O but what the framing does, no clock."""

import hashlib
from dataclasses import dataclass

from counterfoil.codec import decode
from counterfoil.errors import DecodeError
from counterfoil.event import Event
from counterfoil.framing import SINGLE_OBJECT, Framing
from counterfoil.ids import OPERATORS, is_tenant, partition_key
from counterfoil_consumers.binary_copy import (
    FALSE,
    NULL,
    TRUE,
    bigint,
    bytea,
    count_of,
    integer,
    smallint,
    text,
    timestamptz,
    uuid,
)
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.readable import readable_body

_COLUMNS = count_of(35)  # of `copy_incoming`
# What a Python datetime holds, with a margin; Postgres holds more.
_MIN_MICROS = -62_000_000_000_000_000
_MAX_MICROS = 253_000_000_000_000_000
_MAX_SEQ = 2**62
_MAX_ATTEMPT = 2**31
_MODES = ("live", "shadow", "replay")


@dataclass(frozen=True, slots=True)
class Record:
    """A consumed Kafka record. `appended_at` is the broker's clock, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    appended_at: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A record ready to be stored; `copied` is its row of `copy_incoming`, in binary."""

    record: Record
    event: Event
    copied: bytes


@dataclass(frozen=True, slots=True)
class Window:
    """The open window of event ids in milliseconds since the epoch, [start, end)."""

    start: int
    end: int


def row_of(record: Record, source_id: int, window: Window, framing: Framing = SINGLE_OBJECT) -> Row:
    """Decode and check one record.

    Raises BadRecord when it can't be stored, with the class and reason of its dead letter, and RegistryError when
    nothing can be said of it now.
    """
    if record.value is None:
        raise BadRecord("the record has no value")
    try:
        event = decode(record.value, framing)
    except DecodeError as error:
        raise BadRecord(str(error), error.reason_class) from error
    _check(event, record)
    return Row(record, event, _copied(event, record, source_id, is_astray(event, window)))


def _check(event: Event, record: Record) -> None:
    if not is_tenant(event.tenant) and event.tenant != OPERATORS:
        raise BadRecord(f"the tenant {event.tenant[:60]!r} is no tenant's name", "foreign")
    if record.key != partition_key(event.tenant, event.task_id):
        raise BadRecord("key and envelope disagree on the tenant or the task", "foreign")
    if not _MIN_MICROS <= event.occurred_at <= _MAX_MICROS:
        raise BadRecord(f"occurred_at is {event.occurred_at} microseconds, beyond any calendar", tenant=event.tenant)
    if not 0 <= event.seq < _MAX_SEQ:
        raise BadRecord(f"seq is {event.seq}", tenant=event.tenant)
    if event.attempt is not None and not 0 <= event.attempt < _MAX_ATTEMPT:
        raise BadRecord(f"attempt is {event.attempt}", tenant=event.tenant)
    if event.mode not in _MODES:
        raise BadRecord(f"the mode {event.mode[:60]!r} is none of {', '.join(_MODES)}", tenant=event.tenant)


def is_astray(event: Event, window: Window) -> bool:
    """Whether the id's time lies outside the open window, or its retention class has no partition."""
    milliseconds = int.from_bytes(event.event_id[:6], "big")
    return event.retention_class != "standard" or not window.start <= milliseconds < window.end


def _copied(event: Event, record: Record, source_id: int, astray: bool) -> bytes:
    value = record.value or b""
    return b"".join(
        (
            _COLUMNS,
            text(event.tenant),
            uuid(event.event_id),
            text(event.retention_class),
            text(event.kind),
            text(event.workflow),
            text(event.environment),
            text(event.mode),
            uuid(event.task_id),
            text(event.task_ref),
            uuid(event.parent_task_id),
            text(event.conversation_id),
            text(event.subject_ref),
            text(event.agent),
            text(event.release),
            text(event.principal),
            text(event.on_behalf_of),
            uuid(event.effect_id),
            integer(event.attempt),
            uuid(event.causation_id),
            uuid(event.trace_id),
            bytea(event.span_id),
            uuid(event.producer_id),
            bigint(event.seq),
            timestamptz(event.occurred_at),
            text(event.redaction),
            bytea(event.body_schema),
            TRUE if event.body is None else FALSE,
            NULL if event.body is None else bytea(readable_body(event.kind, event.body).encode()),
            smallint(source_id),
            integer(record.partition),
            bigint(record.offset),
            timestamptz(record.appended_at * 1000),
            bytea(value),
            bytea(hashlib.sha256(value).digest()),
            TRUE if astray else FALSE,
        )
    )
