"""One Kafka record to one row of the store, or the reason why not. No I/O but what the framing does, no clock."""

import datetime as dt
import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

from counterfoil.codec import decode
from counterfoil.errors import DecodeError
from counterfoil.event import Event
from counterfoil.framing import SINGLE_OBJECT, Framing
from counterfoil.ids import OPERATORS, is_tenant, partition_key
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.readable import mended_text, readable_body

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# What a Python datetime holds, with a margin; Postgres holds more.
_MIN_MICROS = -62_000_000_000_000_000
_MAX_MICROS = 253_000_000_000_000_000
_MAX_SEQ = 2**62
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
    """A record ready to be stored; `fields` are in the order of `copy_incoming`."""

    record: Record
    event: Event
    fields: tuple[Any, ...]


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
    return Row(record, event, _fields(event, record, source_id, is_astray(event, window)))


def _check(event: Event, record: Record) -> None:
    if not is_tenant(event.tenant) and event.tenant != OPERATORS:
        raise BadRecord(f"the tenant {event.tenant[:60]!r} is no tenant's name", "foreign")
    if record.key != partition_key(event.tenant, event.task_id):
        raise BadRecord("key and envelope disagree on the tenant or the task", "foreign")
    if not _MIN_MICROS <= event.occurred_at <= _MAX_MICROS:
        raise BadRecord(f"occurred_at is {event.occurred_at} microseconds, beyond any calendar", tenant=event.tenant)
    if not 0 <= event.seq < _MAX_SEQ:
        raise BadRecord(f"seq is {event.seq}", tenant=event.tenant)
    if event.mode not in _MODES:
        raise BadRecord(f"the mode {event.mode[:60]!r} is none of {', '.join(_MODES)}", tenant=event.tenant)


def is_astray(event: Event, window: Window) -> bool:
    """Whether the id's time lies outside the open window, or its retention class has no partition."""
    milliseconds = int.from_bytes(event.event_id[:6], "big")
    return event.retention_class != "standard" or not window.start <= milliseconds < window.end


def _fields(event: Event, record: Record, source_id: int, astray: bool) -> tuple[Any, ...]:
    value = record.value or b""
    return (
        event.tenant,
        uuid.UUID(bytes=event.event_id),
        mended_text(event.retention_class),
        mended_text(event.kind),
        mended_text(event.workflow),
        mended_text(event.environment),
        event.mode,
        uuid.UUID(bytes=event.task_id),
        mended_text(event.task_ref),
        _uuid(event.parent_task_id),
        mended_text(event.conversation_id),
        mended_text(event.subject_ref),
        mended_text(event.agent),
        mended_text(event.release),
        mended_text(event.principal),
        mended_text(event.on_behalf_of),
        _uuid(event.effect_id),
        event.attempt,
        _uuid(event.causation_id),
        _uuid(event.trace_id),
        event.span_id,
        uuid.UUID(bytes=event.producer_id),
        event.seq,
        _EPOCH + dt.timedelta(microseconds=event.occurred_at),
        mended_text(event.redaction),
        event.body_schema,
        event.body is None,
        None if event.body is None else readable_body(event.kind, event.body),
        source_id,
        record.partition,
        record.offset,
        _EPOCH + dt.timedelta(milliseconds=record.appended_at),
        value,
        hashlib.sha256(value).digest(),
        astray,
    )


def _uuid(value: bytes | None) -> uuid.UUID | None:
    return None if value is None else uuid.UUID(bytes=value)
