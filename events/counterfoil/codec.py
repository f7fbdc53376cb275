"""Event to bytes and back: a framing around an Avro envelope around an Avro body.

The envelope is resolved to the newest version we know; the body is decoded with exactly the schema
whose fingerprint it names, and left unread where we do not know it, so that agents may be newer than
ingest. Both framings are decoded always, by their first bytes. A decode must consume every byte.
"""

import io
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

import fastavro

from counterfoil.encoding import Encoder, encoder_of, long_bytes, part_of, runs_of
from counterfoil.errors import DecodeError
from counterfoil.event import Event
from counterfoil.framing import SINGLE_OBJECT, Framing, fingerprint_of, unframed
from counterfoil.jsontext import to_text
from counterfoil_schemas import AvroSchema, avro_schemas

_ID_BYTES = 16
_SPAN_BYTES = 8
# In the order of EnvelopeEncoder.encode's places.
_VARYING = (
    "event_id", "kind", "body_schema", "body", "seq", "occurred_at", "effect_id", "attempt", "causation_id",
    "trace_id", "span_id",
)  # fmt: skip
_DEFAULTS = {field.name: field.default for field in fields(Event) if field.default is not MISSING}
_ENVELOPE_FIELDS = tuple(field.name for field in fields(Event) if field.name not in ("body", "raw_body"))


class _Schema:
    """A parsed schema with its fingerprint."""

    def __init__(self, schema: AvroSchema) -> None:
        self.definition = schema.definition
        self.subject = schema.subject
        self.version = schema.version
        self.parsed = fastavro.parse_schema(schema.definition)
        self.fingerprint = fingerprint_of(schema.definition)
        self._write: Encoder | None = None

    @property
    def write(self) -> Encoder:
        """The writer of this schema.

        Made at its first use, by two threads at once if so it happens: the lock of `cached_property` (until Python
        3.12) would stay taken in a child that is forked meanwhile.
        """
        if self._write is None:
            self._write = encoder_of(self.definition)
        return self._write


class _Catalogue:
    """Every schema we ship: the newest to write with, all of them to read."""

    def __init__(self) -> None:
        schemas = [_Schema(schema) for schema in avro_schemas()]
        self.newest = {schema.subject: schema for schema in schemas}
        self.envelopes = {s.fingerprint: s for s in schemas if s.subject == "event"}
        self.bodies = {(s.subject, s.fingerprint): s for s in schemas if s.subject != "event"}


@cache
def _catalogue() -> _Catalogue:
    return _Catalogue()


def kinds() -> frozenset[str]:
    """The kinds of event that this version can read."""
    return frozenset(_catalogue().newest) - {"event"}


def encode(event: Event, framing: Framing = SINGLE_OBJECT) -> bytes:
    """The Kafka value of `event`, body encoded with the newest schema of its kind.

    Raises ValueError or TypeError when the body does not fit its schema.
    """
    catalogue = _catalogue()
    record = {name: getattr(event, name) for name in _ENVELOPE_FIELDS}
    if event.body is None:
        record["body"] = event.raw_body
    else:
        schema = catalogue.newest[event.kind]
        record["body_schema"] = schema.fingerprint
        record["body"] = _mending(schema.write, event.body)
    envelope = catalogue.newest["event"]
    return framing.prefix(envelope.fingerprint) + _mending(envelope.write, record)


class EnvelopeEncoder:
    """Writes events that share all of the envelope but what `encode` is given; the shared bytes are made once.

    `shared` are fields of Event; those left out have its defaults. The bytes are those of `encode(Event(...))`. Raises
    ValueError or TypeError when one of them does not fit.
    """

    def __init__(self, shared: Mapping[str, Any], framing: Framing = SINGLE_OBJECT) -> None:
        known = {**_DEFAULTS, **shared}
        self._parts = [framing.prefix(_catalogue().newest["event"].fingerprint)]
        for run, write in _envelope_runs():
            self._parts.append(b"" if write is None else _mending(write, {name: known[name] for name in run}))
        trace_id = known["trace_id"]
        self._trace = b"\x00" if trace_id is None else b"\x02" + trace_id
        self._places = _places()

    def encode(
        self,
        kind: str,
        body: Mapping[str, Any],
        event_id: bytes,
        seq: int,
        occurred_at: int,
        effect_id: bytes | None = None,
        attempt: int | None = None,
        causation_id: bytes | None = None,
        trace_id: bytes | None = None,
        span_id: bytes | None = None,
    ) -> bytes:
        """The Kafka value of one event; without a `trace_id` it has the one that is shared.

        Raises ValueError or TypeError when the body does not fit its schema.
        """
        prefix, write, fingerprint = _kind(kind)
        content = _mending(write, body)
        for fixed in (event_id, effect_id, causation_id, trace_id):
            if fixed is not None and len(fixed) != _ID_BYTES:
                raise ValueError(f"an id has {len(fixed)} bytes, not {_ID_BYTES}")
        if span_id is not None and len(span_id) != _SPAN_BYTES:
            raise ValueError(f"a span_id has {len(span_id)} bytes, not {_SPAN_BYTES}")
        parts = self._parts.copy()
        a, b, c, d, e, f, g, h, i, j, k = self._places
        parts[a] = event_id
        parts[b] = prefix
        parts[c] = fingerprint
        parts[d] = long_bytes(len(content)) + content
        parts[e] = long_bytes(seq)
        parts[f] = long_bytes(occurred_at)
        parts[g] = b"\x00" if effect_id is None else b"\x02" + effect_id
        parts[h] = b"\x00" if attempt is None else b"\x02" + long_bytes(attempt)
        parts[i] = b"\x00" if causation_id is None else b"\x02" + causation_id
        parts[j] = self._trace if trace_id is None else b"\x02" + trace_id
        parts[k] = b"\x00" if span_id is None else b"\x02" + span_id
        return b"".join(parts)


@cache
def _envelope_runs() -> list[tuple[list[str], Encoder | None]]:
    """The envelope's fields in order: what varies by itself, and the writers of what lies between."""
    definition = _catalogue().newest["event"].definition
    runs = runs_of(definition, _VARYING)
    return [(run, None if run[0] in _VARYING else encoder_of(part_of(definition, run))) for run in runs]


@cache
def _places() -> tuple[int, ...]:
    """Where, behind the fingerprint, what varies stands among the runs."""
    at = {run[0]: place for place, (run, _) in enumerate(_envelope_runs(), 1)}
    return tuple(at[name] for name in _VARYING)


@cache
def _kind(kind: str) -> tuple[bytes, Encoder, bytes]:
    """Its name as bytes, the writer of its bodies, and their schema's fingerprint."""
    schema = _catalogue().newest[kind]
    return long_bytes(len(kind.encode())) + kind.encode(), schema.write, schema.fingerprint


def _mending(write: Encoder, record: Mapping[str, Any]) -> bytes:
    """Lone surrogates, which UTF-8 can't hold, are written escaped."""
    try:
        return write(record)
    except UnicodeEncodeError:
        return write(_mended(record))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return to_text(value)
    if isinstance(value, dict):
        return {name: _mended(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    return value


def decode(value: bytes, framing: Framing = SINGLE_OBJECT) -> Event:
    """The event in a Kafka value; its body is None when the kind or body schema is unknown here.

    `framing` says what the id of a schema stands for. Raises DecodeError when the bytes are no event, and RegistryError
    when that can't be known now.
    """
    fingerprint, start = unframed(value, framing)
    catalogue = _catalogue()
    writer = catalogue.envelopes.get(fingerprint)
    if writer is None:
        raise DecodeError(f"the envelope's schema {fingerprint.hex()} is not one of ours", "incompatible")
    record = _read(writer, catalogue.newest["event"], value[start:], "envelope")
    raw_body = record.pop("body")
    if record["content_encoding"] != "identity" or record["key_id"] is not None:
        return Event(**record, body=None, raw_body=raw_body)
    body_schema = catalogue.bodies.get((record["kind"], record["body_schema"]))
    if body_schema is None:
        return Event(**record, body=None, raw_body=raw_body)
    newest = catalogue.newest[record["kind"]]
    return Event(**record, body=_read(body_schema, newest, raw_body, "body"), raw_body=raw_body)


def _read(writer: _Schema, reader: _Schema, content: bytes, what: str) -> dict[str, Any]:
    source = io.BytesIO(content)
    resolved = None if reader is writer else reader.parsed
    try:
        record = fastavro.schemaless_reader(source, writer.parsed, resolved)
    except Exception as error:  # fastavro raises many kinds on bytes that are not Avro
        raise DecodeError(f"the {what} is not Avro of {writer.subject} {writer.version}: {_said(error)}") from error
    if source.tell() != len(content):
        raise DecodeError(f"the {what} has {len(content) - source.tell()} bytes too many")
    assert isinstance(record, dict)  # noqa: S101  # a record schema reads as a dict
    return record


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
