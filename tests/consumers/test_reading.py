"""The generated readers say what fastavro says, and refuse what it refuses."""

import contextlib
import dataclasses
import hashlib
import io
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import DecodeError, Event
from counterfoil.codec import decode, encode
from counterfoil.ids import OPERATORS, is_tenant, partition_key
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.readable import json_text, mended_text
from counterfoil_consumers.reading import NOT_AVRO, body_reader_of, fields_readers_of
from counterfoil_consumers.records import Leaf, Reader, Record, Row, Window
from counterfoil_schemas import avro_schemas, json_fields
from tests.consumers.made import event
from tests.events.generated import BODIES, LONGS, events, values

WINDOW = Window({"standard": (Leaf(bytes(16), b"\x80" * 16, "a month"),)})
DEFINITIONS = {schema.subject: schema.definition for schema in avro_schemas()}
POSTGRES_EPOCH = 946_684_800_000_000


def as_json(value: Any, name: str, kind: str) -> Any:
    """What the store shows of a value that fastavro decoded."""
    match value:
        case bytes():
            return value.hex()
        case str() if name in json_fields(kind):
            return json.loads(json_text(value))
        case str():
            return mended_text(value)
        case float() if value in (float("inf"), float("-inf")) or value != value:  # noqa: PLR0124  # NaN
            return str(value)
        case list():
            return [as_json(item, "", kind) for item in value]
        case dict():
            return {inner: as_json(item, inner, kind) for inner, item in value.items()}
    return value


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_bodies_are_fastavro_s(kind: str) -> None:
    definition = DEFINITIONS[kind]
    folded = [field["name"] for field in definition["fields"]][:2]
    read = body_reader_of(definition, definition, json_fields(kind), folded)

    @settings(max_examples=60, deadline=None)
    @given(BODIES[kind], st.binary(max_size=3))
    def check(body: dict[str, Any], before: bytes) -> None:
        content = encode(event(kind, body))
        raw = decode(content).raw_body
        whole, part, end = read(before + raw, len(before))
        assert end == len(before) + len(raw)
        expected = as_json(dict(decode(content).body or {}), "", kind)
        assert json.loads(whole) == expected
        assert part is not None
        assert json.loads(part) == {name: expected[name] for name in folded}

    check()


def fields_of(copied: bytes) -> Iterator[bytes | None]:
    """The fields of one row of binary COPY."""
    count, at = struct.unpack_from(">h", copied)[0], 2
    for _ in range(count):
        size = struct.unpack_from(">i", copied, at)[0]
        at += 4
        yield None if size < 0 else copied[at : at + size]
        at += max(size, 0)
    assert at == len(copied)


def facts_of(fact: bytes) -> Iterator[bytes | None]:
    """The fields of one composite value in an array."""
    size, count, at = *struct.unpack_from(">ii", fact), 8
    assert size == len(fact) - 4
    for _ in range(count):
        size = struct.unpack_from(">i", fact, at + 4)[0]
        at += 8
        yield None if size < 0 else fact[at : at + size]
        at += max(size, 0)
    assert at == len(fact)


def text(value: str | None) -> bytes | None:
    return None if value is None else mended_text(value).encode()


def number(code: str, value: int | None) -> bytes | None:
    return None if value is None else struct.pack(f">{code}", value)


def expected(record: Record) -> dict[str, Any]:
    """The columns of a record, by way of fastavro; BadRecord or DecodeError where it can't be stored."""
    value = record.value or b""
    one = decode(value)
    if not (is_tenant(one.tenant) or one.tenant == OPERATORS) or record.key != partition_key(one.tenant, one.task_id):
        raise BadRecord("not theirs", "foreign")
    if one.mode not in ("live", "shadow", "replay") or not 0 <= one.seq < 2**62 or not 0 <= (one.attempt or 0) < 2**31:
        raise BadRecord("out of range")
    if not -62e15 <= one.occurred_at <= 253e15:
        raise BadRecord("out of range")
    return {
        "event_id": one.event_id,
        "kind": text(one.kind),
        "body_schema": one.body_schema,
        "unread": bytes([one.body is None]),
        "body": None if one.body is None else as_json(dict(one.body), "", one.kind),
        "tenant": text(one.tenant),
        "workflow": text(one.workflow),
        "retention_class": text(one.retention_class),
        "environment": text(one.environment),
        "mode": text(one.mode),
        "task_id": one.task_id,
        "task_ref": text(one.task_ref),
        "parent_task_id": one.parent_task_id,
        "conversation_id": text(one.conversation_id),
        "subject_ref": text(one.subject_ref),
        "agent": text(one.agent),
        "release": text(one.release),
        "principal": text(one.principal),
        "on_behalf_of": text(one.on_behalf_of),
        "effect_id": one.effect_id,
        "attempt": number("i", one.attempt),
        "causation_id": one.causation_id,
        "trace_id": one.trace_id,
        "span_id": one.span_id,
        "producer_id": one.producer_id,
        "seq": number("q", one.seq),
        "occurred_at": number("q", one.occurred_at - POSTGRES_EPOCH),
        "redaction": text(one.redaction),
        "source_id": number("h", 7),
        "partition": number("i", record.partition),
        "offset": number("q", record.offset),
        "appended_at": number("q", record.appended_at * 1000 - POSTGRES_EPOCH),
        "value": value,
        "value_sha256": hashlib.sha256(value).digest(),
    }


FACT = [
    *("tenant", "task_id", "task_ref", "parent_task_id", "conversation_id", "subject_ref", "workflow", "agent", "mode"),
    *("event_id", "kind", "unread", "body", "effect_id", "producer_id", "seq", "occurred_at", "redaction", "partition"),
    *("offset", "appended_at"),
]


def assert_same(row: Row, record: Record) -> None:
    columns = expected(record)
    found = dict(zip(columns, fields_of(row.copied), strict=True))
    body = found.pop("body")
    assert (None if body is None else json.loads(body)) == columns.pop("body")
    assert found == columns
    facts = dict(zip(FACT, facts_of(row.fact), strict=True))
    part = facts.pop("body")
    assert part is None or (body is not None and json.loads(part).items() <= json.loads(body).items())
    assert facts == {name: found[name] for name in facts}
    assert (row.tenant, row.kind) == ((found["tenant"] or b"").decode(), decode(record.value or b"").kind)
    assert (row.event_id, row.effect_id, row.digest) == (found["event_id"], found["effect_id"], found["value_sha256"])
    assert row.is_read == (found["unread"] == b"\x00")


def storable(one: Event) -> Event:
    """With a tenant, a mode and numbers that the store takes; the rest as drawn."""
    return dataclasses.replace(
        one,
        tenant="acme",
        mode=("live", "shadow", "replay")[len(one.mode) % 3],
        seq=one.seq % 2**62,
        occurred_at=one.occurred_at % 2**57,
        attempt=None if one.attempt is None else one.attempt % 2**31,
    )


def record_of(one: Event, value: bytes | None = None, offset: int = 3) -> Record:
    key = partition_key(one.tenant, one.task_id)
    return Record("t", 5, offset, 1_750_000_000_123, key, encode(one) if value is None else value, ())


@settings(max_examples=200, deadline=None)
@given(events(), st.booleans())
def test_rows_are_fastavro_s(drawn: Event, is_storable: bool) -> None:
    one = storable(drawn) if is_storable else drawn
    record = record_of(one)
    reader = Reader(7, WINDOW)
    try:
        row = reader.row(record)
    except BadRecord:
        with pytest.raises(BadRecord):
            expected(record)
        return
    assert_same(row, record)
    assert reader.row(record) == row  # what it remembers now changes nothing


@settings(max_examples=300, deadline=None)
@given(events(), st.data())
def test_changed_bytes_are_read_as_fastavro_reads_them_or_refused(drawn: Event, data: st.DataObject) -> None:
    """What is refused here alone encodes nothing that fastavro read: a long with bytes too many, a negative branch."""
    one = storable(drawn)
    value = bytearray(encode(one))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(10, len(value) - 1))
        value[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(value), len(value), data.draw(st.integers(10, len(value)))]))
    record = record_of(one, bytes(value[:cut]))
    reader = Reader(7, WINDOW)
    reader.row(record_of(one))  # remembered, and then the same bytes or others
    try:
        row = reader.row(record)
    except BadRecord:
        try:
            expected(record)
        except (BadRecord, DecodeError):
            return
        assert encode(decode(record.value or b"")) != record.value
        return
    assert_same(row, record)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_after_our_frame_are_read_as_fastavro_reads_them_or_refused(content: bytes) -> None:
    record = record_of(event(), encode(event())[:10] + content)
    try:
        row = Reader(7, WINDOW).row(record)
    except BadRecord:
        return
    assert_same(row, record)


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_changed_bodies_are_read_as_fastavro_reads_them_or_refused(kind: str) -> None:
    definition = DEFINITIONS[kind]
    read = body_reader_of(definition, definition, json_fields(kind), ())
    parsed = fastavro.parse_schema(definition)

    @settings(max_examples=60, deadline=None)
    @given(BODIES[kind], st.data())
    def check(body: dict[str, Any], data: st.DataObject) -> None:
        raw = bytearray(decode(encode(event(kind, body))).raw_body)
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        try:
            whole, _, end = read(bytes(raw), 0)
        except (*NOT_AVRO, DecodeError):
            return
        if end == len(raw):
            source = io.BytesIO(raw)
            assert json.loads(whole) == as_json(fastavro.schemaless_reader(source, parsed, None), "", kind)
            assert source.tell() == end

    check()


BOMBS = {
    "items without end": b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
    "a block with a size, then items without end": b"\xfd\xff\xff\xff\xff\xff\xff\xff\x7f\x00",
    "a long without end": b"\x80" * 400,
    "a text longer than all": b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
    "nothing": b"",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_ends_at_once(name: str) -> None:
    began = time.process_time()
    for kind in BODIES:
        read = body_reader_of(DEFINITIONS[kind], DEFINITIONS[kind], frozenset(), ())
        for before in (b"", b"\x00", b"\x00\x00", b"\x02x"):
            with contextlib.suppress(*NOT_AVRO, DecodeError):
                read(before + BOMBS[name], 0)
    assert time.process_time() - began < 5


OLD = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "gone", "type": "string"},
        {"name": "stays", "type": ["null", "long"]},
        {
            "name": "parts",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Part", "fields": [{"name": "a", "type": "string"}]},
            },
        },
    ],
}
NEW = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "came", "type": "string", "default": "x"},
        {
            "name": "parts",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Part",
                    "fields": [
                        {"name": "b", "type": ["null", "string"], "default": None},
                        {"name": "a", "type": "string"},
                    ],
                },
            },
        },
        {"name": "stays", "type": ["null", "long"]},
        {"name": "many", "type": {"type": "array", "items": "long"}, "default": []},
    ],
}


@given(values(OLD))
def test_an_older_body_is_read_as_the_newest_version_says_it(body: dict[str, Any]) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(OLD), body)
    out.seek(0)
    resolved = fastavro.schemaless_reader(out, fastavro.parse_schema(OLD), fastavro.parse_schema(NEW))
    whole, _, end = body_reader_of(OLD, NEW, frozenset(), ())(out.getvalue(), 0)
    assert end == len(out.getvalue())
    assert json.loads(whole) == as_json(resolved, "", "")


def test_an_older_envelope_has_the_newest_one_s_defaults() -> None:
    fields = [{"name": "a", "type": "string"}, {"name": "c", "type": "long"}]
    newer = [fields[0], {"name": "b", "type": ["null", "string"], "default": None}, fields[1]]
    old, new = ({"type": "record", "name": "R", "fields": part} for part in (fields, newer))
    [first, second] = fields_readers_of(old, new, [("a", "b"), ("c",)], ())
    assert first(b"\x02x\x08", 0) == (b"\x00\x00\x00\x01x", b"\xff\xff\xff\xff", 2)
    assert second(b"\x02x\x08", 2) == (4, 3)
    with pytest.raises(ValueError, match="the fields of R are a, c"):
        fields_readers_of(old, new, [("c",), ("a",)], ())


@given(LONGS | st.integers(2**48 - 2, 2**55 + 2) | st.integers(-9000, 9000))
def test_longs_are_fastavro_s(value: int) -> None:
    definition = {"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(definition), {"n": value})
    assert fields_readers_of(definition, definition, [("n",)], ())[0](out.getvalue(), 0) == (value, out.tell())


def test_an_avro_type_that_we_do_not_use_is_an_error_at_once() -> None:
    for node in ({"type": "map", "values": "string"}, ["null", "string", "long"], "float"):
        definition = {"type": "record", "name": "R", "fields": [{"name": "odd", "type": node}]}
        with pytest.raises(NotImplementedError, match="odd"):
            body_reader_of(definition, definition, frozenset(), ())
        with pytest.raises(NotImplementedError, match="odd"):
            fields_readers_of(definition, definition, [("odd",)], ())
