"""One Kafka record to one row of the store, or the reason why not. No I/O but what the framing does, no clock.

The envelopes of a task's events share most of their bytes, from the tenant to whom it acts for. What these say is
remembered by the record's key, and holds wherever the same bytes stand in the same place: Avro has no two readings.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from counterfoil.errors import DecodeError
from counterfoil.framing import SINGLE_OBJECT, Framing, fingerprint_of, unframed
from counterfoil.ids import OPERATORS, is_tenant, partition_key
from counterfoil_consumers import binary_copy
from counterfoil_consumers.binary_copy import FALSE, NULL, TRUE, bigint, bytea, integer, oid, smallint, timestamptz
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.readable import mended_text
from counterfoil_consumers.reading import NOT_AVRO, BodyReader, FieldsReader, body_reader_of, fields_readers_of
from counterfoil_schemas import avro_schemas, json_fields

# What a Python datetime holds, with a margin; Postgres holds more.
_MIN_MICROS = -62_000_000_000_000_000
_MAX_MICROS = 253_000_000_000_000_000
_MAX_SEQ = 2**62
_MAX_ATTEMPT = 2**31
_LONGEST_INDEXED = 2_000  # bytes; a B-tree of Postgres takes 2,704
_NAMES_ROWS = ("verdict", "operation")
_MODES = (b"live", b"shadow", b"replay")
_MOST_REMEMBERED = 5_000

# The envelope's three parts: what differs from event to event stands before and behind what a task's events share.
_HEAD = ("event_id", "kind", "body_schema", "body")
_SHARED = (
    "content_encoding", "key_id", "subject", "tenant", "workflow", "retention_class", "environment", "mode", "task_id",
    "task_ref", "parent_task_id", "conversation_id", "subject_ref", "agent", "release", "principal", "on_behalf_of",
)  # fmt: skip
_TAIL = (
    "effect_id", "attempt", "causation_id", "trace_id", "span_id", "producer_id", "seq", "occurred_at", "redaction",
)  # fmt: skip
_RAW = ("kind", "body", "tenant", "retention_class", "mode", "task_id")
_IDENTITY = binary_copy.text("identity")

# The columns of `copy_events`, and the fields of the type `fact`, in the order in which `row` puts them.
_COLUMNS = binary_copy.count_of(34)
_FACT_FIELDS = binary_copy.length(21)
_TEXT, _UUID, _BOOL, _JSON = map(oid, (binary_copy.TEXT, binary_copy.UUID, binary_copy.BOOL, binary_copy.JSON))
_INT4, _INT8, _TIMESTAMPTZ = map(oid, (binary_copy.INTEGER, binary_copy.BIGINT, binary_copy.TIMESTAMPTZ))

# What the folds read of a body.
_FOLDED: Mapping[str, tuple[str, ...]] = {
    "task_started": ("title",),
    "task_ended": ("status",),
    "completion": ("model", "input_tokens", "output_tokens", "cached_tokens", "cost", "currency"),
    "retrieval": ("sources",),
    "tool_intent": ("tool", "target", "step", "args", "expect"),
    "tool_result": ("outcome", "result", "deadline"),
    "verdict": (
        "target", "verdict", "reason", "check_seq", "contract_version", "contract_digest", "resources", "evidence",
    ),
    "operation": ("operation", "by", "reason", "verdict_event_id", "target", "check_seq", "resources"),
    "producer_opened": ("beat_interval",),
    "producer_beat": ("open_tasks",),
    "producer_closed": ("open_tasks", "adopted_by"),
    "gap": ("gap_task_id", "first_seq", "last_seq"),
}  # fmt: skip


class Record(NamedTuple):
    """A consumed Kafka record. `appended_at` is the broker's clock, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    appended_at: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def stored_record(row: Mapping[str, Any]) -> Record:
    """The record that an event's row came from, but for its headers, which are not kept."""
    key = partition_key(row["tenant"], row["task_id"].bytes)
    return Record("the log", row["partition"], row["offset"], row["appended_at"], key, row["value"], ())


class RecordCheck(Protocol):
    """What a record must pass before it is decoded."""

    def check(self, record: Record, /) -> None:
        """Raises BadRecord for one that does not."""


class Row(NamedTuple):
    """A record ready to be stored.

    `body` is a field of JSON, `copied` its row of COPY, `fact` its item of an array of facts; `leaf` is the partition
    it belongs to, None where it goes astray. `identity` are tenant and event_id, as fields.
    """

    record: Record
    tenant: str
    kind: str
    is_read: bool
    effect_id: bytes | None
    retention_class: str
    leaf: str | None
    identity: bytes
    digest: bytes
    body: bytes
    copied: bytes
    fact: bytes

    @property
    def event_id(self) -> bytes:
        """16 bytes."""
        return self.identity[-16:]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition of `event`, for the ids of [first_id, next_id)."""

    first_id: bytes
    next_id: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Window:
    """The open window of event ids: the leaves of each retention class that has some."""

    leaves: Mapping[str, tuple[Leaf, ...]]

    def leaf(self, retention_class: str, event_id: bytes) -> str | None:
        """The partition for such an event, None where it is astray."""
        for leaf in self.leaves.get(retention_class, ()):
            if leaf.first_id <= event_id < leaf.next_id:
                return leaf.name
        return None


@dataclass(frozen=True, slots=True)
class _Envelope:
    """One version of the envelope."""

    head: FieldsReader
    shared: FieldsReader
    tail: FieldsReader


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of event with one version of its body; `read` is None where we know no such body."""

    name: str
    field: bytes
    read: BodyReader | None


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the events of a task share: `avro` are the bytes that say so, to `columns` and to the fields of facts."""

    envelope: _Envelope
    avro: bytes
    tenant: str
    mode: bytes
    task_ref_bytes: int
    retention_class: str
    is_plain: bool
    key: bytes
    tenant_field: bytes
    columns: bytes
    fact: bytes


class Reader:
    """Makes rows of the records of one log. Not to be shared by threads.

    `keys` check signatures; without them, as for bytes that the store holds without their headers, none is looked at.
    Without `reads_bodies`, every row is one of an event that is kept unread.
    """

    def __init__(
        self,
        source_id: int,
        window: Window,
        framing: Framing = SINGLE_OBJECT,
        keys: RecordCheck | None = None,
        *,
        reads_bodies: bool = True,
    ) -> None:
        self.window = window
        self._keys = keys
        self._framing = framing
        self._source = smallint(source_id)
        self._kinds = dict(_known_kinds()) if reads_bodies else {}
        self._remembered: dict[bytes | None, _Shared] = {}

    def row(self, record: Record) -> Row:
        """Decode and check one record.

        Raises BadRecord when it can't be stored, with the class and reason of its dead letter, and RegistryError when
        nothing can be said of it now.
        """
        if record.value is None:
            raise BadRecord("the record has no value")
        if self._keys is not None:
            self._keys.check(record)
        try:
            return self._row(record, record.value)
        except DecodeError as error:
            raise BadRecord(str(error), error.reason_class) from error

    def _row(self, record: Record, value: bytes) -> Row:
        fingerprint, at = unframed(value, self._framing)
        envelope = _envelopes().get(fingerprint)
        if envelope is None:
            raise DecodeError(f"the envelope's schema {fingerprint.hex()} is not one of ours", "incompatible")
        try:
            event_id, kind_name, body_schema, body, at = envelope.head(value, at)
            shared = self._remembered.get(record.key)
            is_known = shared is not None and shared.envelope is envelope and value.startswith(shared.avro, at)
            if shared is None or not is_known:
                shared = _shared(envelope, value, at)
            tail = envelope.tail(value, at + len(shared.avro))
            kind = self._kind(kind_name, body_schema)
        except (*NOT_AVRO, DecodeError) as error:
            raise DecodeError(f"the envelope is not Avro of event: {_said(error)}") from error
        effect_id, attempt, causation_id, trace_id, span_id, producer_id, seq, occurred_at, redaction, end = tail
        if end != len(value):
            raise DecodeError(f"the envelope {_misses(end, value)}")
        if not is_known:
            _check(shared, record.key)
            self._remember(record.key, shared)
        _check_numbers(shared.tenant, attempt, seq, occurred_at)

        is_read = kind.read is not None and shared.is_plain
        json_field = folded_field = NULL
        if kind.read is not None and is_read:
            json_field, folded_field = _body(kind.name, kind.read, body, shared.tenant)
        unread = FALSE if is_read else TRUE
        digest = hashlib.sha256(value).digest()
        seq_field, occurred_field = bigint(seq), timestamptz(occurred_at)
        partition, offset = integer(record.partition), bigint(record.offset)
        appended = timestamptz(record.appended_at * 1000)
        columns = (
            _COLUMNS, event_id, kind.field, body_schema, unread, json_field, shared.columns, effect_id,
            integer(attempt), causation_id, trace_id, span_id, producer_id, seq_field, occurred_field, redaction,
            self._source, partition, offset, appended, bytea(value), bytea(digest),
        )  # fmt: skip
        fact = b"".join((
            shared.fact, _UUID, event_id, _TEXT, kind.field, _BOOL, unread, _JSON, folded_field, _UUID, effect_id,
            _UUID, producer_id, _INT8, seq_field, _TIMESTAMPTZ, occurred_field, _TEXT, redaction, _INT4, partition,
            _INT8, offset, _TIMESTAMPTZ, appended,
        ))  # fmt: skip
        return Row(
            record,
            shared.tenant,
            kind.name,
            is_read,
            None if effect_id == NULL else effect_id[4:],
            shared.retention_class,
            self.window.leaf(shared.retention_class, event_id[4:]),
            shared.tenant_field + event_id,
            digest,
            json_field,
            b"".join(columns),
            binary_copy.length(len(fact)) + fact,
        )

    def _remember(self, key: bytes | None, shared: _Shared) -> None:
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = shared

    def _kind(self, name: bytes, body_schema: bytes) -> _Kind:
        kind = self._kinds.get((name, body_schema))
        return _Kind(name.decode(), binary_copy.text_of(name), None) if kind is None else kind


def _shared(envelope: _Envelope, value: bytes, at: int) -> _Shared:
    fields = envelope.shared(value, at)
    encoding, key_id, _subject, tenant, workflow, retention_class, environment, mode, task_id, *others, end = fields
    task_ref, parent_task_id, conversation_id, subject_ref, agent, release, principal, on_behalf_of = others
    name, retention = tenant.decode(), mended_text(retention_class.decode())
    tenant_field, mode_field, task_field = binary_copy.text(name), binary_copy.text(mode.decode()), bytea(task_id)
    columns = (
        tenant_field, workflow, binary_copy.text(retention), environment, mode_field, task_field, task_ref,
        parent_task_id, conversation_id, subject_ref, agent, release, principal, on_behalf_of,
    )  # fmt: skip
    fact = (
        _FACT_FIELDS, _TEXT, tenant_field, _UUID, task_field, _TEXT, task_ref, _UUID, parent_task_id, _TEXT,
        conversation_id, _TEXT, subject_ref, _TEXT, workflow, _TEXT, agent, _TEXT, mode_field,
    )  # fmt: skip
    is_plain = encoding == _IDENTITY and key_id == NULL
    key = tenant + b"/" + task_id.hex().encode()
    return _Shared(
        envelope=envelope,
        avro=value[at:end],
        tenant=name,
        mode=mode,
        task_ref_bytes=len(task_ref) - len(NULL),
        retention_class=retention,
        is_plain=is_plain,
        key=key,
        tenant_field=tenant_field,
        columns=b"".join(columns),
        fact=b"".join(fact),
    )


def _check(shared: _Shared, key: bytes | None) -> None:
    tenant = shared.tenant
    if not is_tenant(tenant) and tenant != OPERATORS:
        raise BadRecord(f"the tenant {tenant[:60]!r} is no tenant's name", "foreign")
    if key != shared.key:
        raise BadRecord("key and envelope disagree on the tenant or the task", "foreign")
    if shared.task_ref_bytes > _LONGEST_INDEXED:
        problem = f"task_ref has {shared.task_ref_bytes} bytes; at most {_LONGEST_INDEXED} can be looked up"
        raise BadRecord(problem, tenant=tenant)
    if shared.mode not in _MODES:
        modes = ", ".join(mode.decode() for mode in _MODES)
        raise BadRecord(f"the mode {shared.mode.decode()[:60]!r} is none of {modes}", tenant=tenant)


def _check_numbers(tenant: str, attempt: int | None, seq: int, occurred_at: int) -> None:
    if not _MIN_MICROS <= occurred_at <= _MAX_MICROS:
        raise BadRecord(f"occurred_at is {occurred_at} microseconds, beyond any calendar", tenant=tenant)
    if not 0 <= seq < _MAX_SEQ:
        raise BadRecord(f"seq is {seq}", tenant=tenant)
    if attempt is not None and not 0 <= attempt < _MAX_ATTEMPT:
        raise BadRecord(f"attempt is {attempt}", tenant=tenant)


def _body(kind: str, read: BodyReader, body: bytes, tenant: str) -> tuple[bytes, bytes]:
    """The body, and what the folds read of it, as fields of JSON."""
    try:
        whole, folded, end = read(body, 0)
        if end == len(body):
            if kind in _NAMES_ROWS and len(whole) > _LONGEST_INDEXED:
                _check_resources(whole, tenant)
            return bytea(whole.encode()), NULL if folded is None else bytea(folded.encode())
        problem = f"the body {_misses(end, body)}"
    except (*NOT_AVRO, DecodeError) as error:
        problem = f"the body is not Avro of {kind}: {_said(error)}"
    raise BadRecord(problem, tenant=tenant)


def _check_resources(body: str, tenant: str) -> None:
    for resource in json.loads(body)["resources"]:
        for name in ("resource", "key"):
            size = len(str(resource[name]).encode())
            if size > _LONGEST_INDEXED:
                problem = f"a {name} has {size} bytes; at most {_LONGEST_INDEXED} can be looked up"
                raise BadRecord(problem, tenant=tenant)


def _misses(end: int, content: bytes) -> str:
    return f"has {len(content) - end} bytes too many" if end < len(content) else f"is {end - len(content)} bytes short"


def _said(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "it ends too early"
    return str(error) if isinstance(error, DecodeError) else f"{type(error).__name__} {error}"


@cache
def _envelopes() -> dict[bytes, _Envelope]:
    schemas = [schema for schema in avro_schemas() if schema.subject == "event"]
    newest = schemas[-1].definition

    def envelope(definition: dict[str, Any]) -> _Envelope:
        parts = fields_readers_of(definition, newest, (_HEAD, _SHARED, _TAIL), _RAW)
        return _Envelope(*parts)

    return {fingerprint_of(schema.definition): envelope(schema.definition) for schema in schemas}


@cache
def _known_kinds() -> dict[tuple[bytes, bytes], _Kind]:
    newest = {schema.subject: schema.definition for schema in avro_schemas()}
    found = {}
    for schema in avro_schemas():
        if schema.subject != "event":
            name = schema.subject
            read = body_reader_of(schema.definition, newest[name], json_fields(name), _FOLDED.get(name, ()))
            kind = _Kind(name, binary_copy.text(name), read)
            found[name.encode(), bytea(fingerprint_of(schema.definition))] = kind
    return found
